"""Where in a run can a label be read? Every site and estimator, chosen among honestly.

Sites are compared out of fold on the training groups; the best is then fitted again and tested once
on groups that had no part in choosing it. Its adjusted p-value compares it with the best of all
sites under labels that were exchanged between groups, the same exchange at every site.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, file_hash
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run
from probes.attention import ATTENTION
from probes.cells import Cell
from probes.controls.panel import Panel
from probes.controls.states import control_states
from probes.estimators import default_estimators
from probes.features import read_space
from probes.fit import Options, ProbeResult, fit_population
from probes.fitting import estimator_name, resolve
from probes.jobs import SweepJobs, with_values
from probes.multiplicity import NullMax, adjusted_p, best_cell, null_max
from probes.permutations import Donors, donors
from probes.population import Population, population, refuse_absent_positive
from probes.reading import Task, refuse_unreadable, task_of
from probes.sites import Site, parse_place, parse_site, real_site, site_rows, sweep_sites
from probes.splits import Split, split_groups
from probes.statistics import STATISTIC
from probes.tables import LabelTable
from probes.units import Units
from probes.workers import all_done, refuse_no_device

__all__ = ["NullMax", "Plan", "Sweep", "sweep"]


@dataclass(frozen=True)
class Plan:
    """What does a sweep try?

    `sites`: sites such as u@3, or spaces (u, h, h@2, a hook), which are read at each of `places`;
    None for all that the run has (`sweep_sites`).
    `estimators`: None for the usual three (ridge for numbers). `options`: how probes are fitted and
    judged; `permutations`: of labels, for the null of the best site; `cell_draws`: resamples behind
    each cell's interval.
    """

    sites: tuple[str, ...] | None = None
    places: tuple[str, ...] | None = None
    estimators: tuple[str, ...] | None = None
    options: Options = field(default_factory=Options)
    permutations: int = 99
    cell_draws: int = 200


@dataclass(frozen=True)
class Sweep:
    """Which sites carry the label, and what is left of the best one on untouched groups?

    `cells`: every site and estimator, out of fold; `adjusted_p[i]`: of `cells[i]`, against the best
    of all under exchanged labels; NaN where an estimator was not permuted, and everywhere where
    labels could not be exchanged (`no_null`: why). `controls`: per site or place. `refused`: places
    that could not be read, with the reason. `best`: the probe of the best cell, tested once. It
    shows where the label can be decoded, not where it is used.
    """

    label: str
    kind: str
    statistic: str
    cells: list[Cell]
    adjusted_p: list[float]
    controls: list[Cell]
    refused: dict[str, str]
    null_max: NullMax | None
    no_null: str | None
    best: ProbeResult
    split_hash: str
    run: str
    run_hash: str

    @property
    def best_p(self) -> float:
        """The adjusted p-value of the best cell."""
        at = [(c.site, c.name) for c in self.cells].index((self.best.site, self.best.estimator))
        return self.adjusted_p[at]

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe sweep --json`."""
        cells = [
            {"site": c.site, "estimator": c.name, **_figures(c), "adjusted_p": p}
            for c, p in zip(self.cells, self.adjusted_p, strict=True)
        ]
        controls = [{"site": c.site, "name": c.name, **_figures(c)} for c in self.controls]
        return {
            "label": self.label,
            "kind": self.kind,
            "statistic": self.statistic,
            "cells": cells,
            "controls": controls,
            "refused": self.refused,
            "no_null": self.no_null,
            "null_max": None if self.null_max is None else vars(self.null_max),
            "adjusted_p": self.best_p,
            "best": self.best.to_dict(),
            "split_hash": self.split_hash,
            "run": self.run,
            "run_hash": self.run_hash,
        }


def sweep(
    run: Run,
    label: str,
    plan: Plan,
    units: Callable[[], Units],
    *,
    table: LabelTable | None = None,
    reasoner: NFCoTReasoner | None = None,
    progress: Callable[[int, int], object] | None = None,
    device: str = "cpu",
) -> Sweep:
    """Cross-fit every estimator at every site, and test the best once.

    `units` opens what keeps the work that is done, so that a killed sweep goes on; it is called
    once all that was asked is known to make sense. `table`, `reasoner`: as in
    `fit_probe`. progress: called with (done, all) units. Raises UserError for a site or label that
    the run does not have, too few groups, or a label that no site can be read for.
    """
    refuse_no_device(device)
    sites = _sites(run, plan)
    places = list(dict.fromkeys(site.place for site in sites))
    found = _populations(run, label, sites, plan.options, table)
    refuse_absent_positive(*found.values())
    kind = next(iter(found.values())).kind
    split = _shared_split(found, plan.options)
    tasks, refused = {}, {}
    for place in places:
        one = found[str(place)]
        task = task_of(one, split.rows(one.groups), plan.options.seed)
        try:
            refuse_unreadable(one, task)
        except UserError as error:
            refused[str(place)] = str(error)
            continue
        tasks[str(place)] = task
    sites = [site for site in sites if str(site.place) in tasks]
    if not sites:
        raise UserError(
            f"--label '{label}': no site can be read for it: {next(iter(refused.values()))}"
        )
    asked = plan.estimators or default_estimators(kind)
    chosen = {
        str(site): [
            resolve(e, kind, site.place.how == "all")
            for e in ((ATTENTION,) if site.place.how == "all" else asked)
        ]
        for site in sites
    }
    try:
        whose, no_null = _donors(run, found, tasks, split, plan), None
    except UserError as error:
        whose, no_null = None, str(error)
    jobs = SweepJobs(run, found, tasks, chosen, whose, plan.cell_draws, device)
    for site in {site.source: site for site in sites}.values():
        read_space(run, site)  # refuses values that are not finite
    kept = units()
    panel = None
    if plan.options.controls:
        hooks = list(dict.fromkeys(site.space for site in sites if site.captured))
        states = control_states(run, reasoner, hooks=hooks)
        kept = replace(kept, state=content_hash(sorted(states.available)))
        panel = Panel(run, states, plan.options.seed)
    results = all_done(jobs.batches(sites, panel), kept, progress or _silent)
    cells = [cell for site in sites for cell in results[str(site)][0]]
    controls = [] if panel is None else [*jobs.control_cells(sites, results)]
    null = null_max(cells, STATISTIC[kind], 0 if whose is None else whose[0].fixed)
    adjusted = adjusted_p(cells)
    at = best_cell(cells, adjusted)
    site = next(s for s in sites if str(s) == cells[at].site)
    best = fit_population(
        run,
        with_values(run, found[str(site.place)], site, read_space(run, site)),
        split,
        replace(plan.options, estimator=_estimator(chosen[str(site)], cells[at].name)),
        panel,
    )
    if table is not None:
        best = replace(best, labels_sha256=file_hash(table.path))
    return Sweep(
        label,
        kind,
        STATISTIC[kind],
        cells,
        adjusted,
        controls,
        refused,
        null,
        no_null,
        best,
        split.hash,
        run.name,
        run.hash,
    )


def _figures(cell: Cell) -> dict[str, Any]:
    """What is told of a cell beside its site and name; its null is summed up in `NullMax`."""
    return {k: v for k, v in cell.to_dict().items() if k not in ("site", "name", "null")}


def _populations(
    run: Run, label: str, sites: Sequence[Site], options: Options, table: LabelTable | None
) -> dict[str, Population]:
    """The rows of each place, without values, all of one kind of task."""
    first = {str(site.place): site for site in reversed(sites)}

    def read(kind: str) -> dict[str, Population]:
        return {
            place: population(
                run,
                site,
                label,
                table=table,
                kind=kind,
                positive=options.positive,
                values="none",
            )
            for place, site in reversed(first.items())
        }

    found = read(options.kind)
    kinds = {one.kind for one in found.values()}
    if len(kinds) == 1:
        return found
    return read("number" if "number" in kinds else "multiclass")


def _shared_split(found: dict[str, Population], options: Options) -> Split:
    """One split for all places: each trace counts with its label at the first place it has."""
    kind = next(iter(found.values())).kind
    values: dict[int, Any] = {}
    groups: dict[int, object] = {}
    for one in found.values():
        for trace, y, group in zip(one.trace.tolist(), one.y.tolist(), one.groups, strict=True):
            values.setdefault(trace, y if one.classes is None else json.dumps(one.classes[y]))
            groups.setdefault(trace, group)
    names = np.array([groups[t] for t in sorted(groups)], dtype=object)
    column = [values[t] for t in sorted(values)]
    if kind == "number":
        return split_groups(np.array(column), names, None, options.seed, options.folds)
    classes, y = np.unique(np.array(column, dtype=object).astype(str), return_inverse=True)
    spelt = [json.loads(text) for text in classes]
    return split_groups(y, names, spelt, options.seed, options.folds, kind == "binary")


def _donors(
    run: Run, found: dict[str, Population], tasks: dict[str, Task], split: Split, plan: Plan
) -> tuple[Donors, NDArray[np.int64]] | None:
    """Permutations of the training traces, the same at every place; and where each trace stands."""
    if plan.permutations < 1:
        return None
    groups = run.traces["group"].to_numpy(dtype=object)
    present = np.zeros((len(groups), len(tasks)), dtype=bool)
    for column, place in enumerate(tasks):
        present[found[place].trace, column] = True
    training = np.isin(groups.astype(str), list(split.fold)) & present.any(axis=1)
    rows = np.flatnonzero(training)
    position = np.full(len(groups), -1, dtype=np.int64)
    position[rows] = np.arange(len(rows))
    exchange = donors(groups[rows], present[rows], plan.permutations, plan.options.seed)
    return exchange, position


def _estimator(choices: Sequence[str | BaseEstimator], name: str) -> str | BaseEstimator:
    return next(e for e in choices if estimator_name(e) == name)


def _sites(run: Run, plan: Plan) -> list[Site]:
    """The sites that a plan names, those of one space together."""
    places = None if plan.places is None else list(plan.places)
    if plan.sites is None:
        return sweep_sites(run, None, places)
    named: dict[Site, None] = {}
    for name in plan.sites:
        space, _, place = name.rpartition("@")
        if space and space != "h" and parse_place(place) is not None:
            found = [real_site(run, parse_site(name))]
            site_rows(run, found[0])
        else:
            found = sweep_sites(run, [name], places)
        named |= dict.fromkeys(found)
    sources = list(dict.fromkeys(site.source for site in named))
    return sorted(named, key=lambda site: sources.index(site.source))


def _silent(done: int, total: int) -> None:
    """Nobody watches."""
