"""Does a probe read other runs, and other families of problems, than it was trained on?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.estimators import strongest
from probes.fit import Options
from probes.fitting import estimator_name, resolve
from probes.headline import HEADLINE_METRIC
from probes.intervals import Estimate, group_draws
from probes.metrics import difference, evaluate
from probes.pooled import Pool, split_parts
from probes.population import Population, population
from probes.reading import Reading
from probes.sites import parse_site
from probes.splits import Rows
from probes.tables import LabelTable
from probes.threads import one_thread_each
from probes.weights import Features

__all__ = ["Judge", "Transfer", "TransferCell", "judge_of", "labelled", "spelled", "transfer"]


@dataclass(frozen=True)
class TransferCell:
    """How well is the label read in `test` by a probe trained on `train`?

    On the held-out groups of `test`, with 95 % intervals over groups. `difference`: the same less
    the figures of the probe that was trained within `test`, paired on the same resamples of the
    same rows; empty for that one itself.
    """

    train: str
    test: str
    n: int
    groups: int
    penalty: float | None
    metrics: dict[str, Estimate]
    withheld: dict[str, str]
    difference: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = dict(vars(self))
        both = {"metrics": self.metrics, "difference": self.difference}
        return plain | {k: {name: e.to_dict() for name, e in v.items()} for k, v in both.items()}


@dataclass(frozen=True)
class Transfer:
    """A probe for each part, read on every part (`by` "run"), or for all parts but one (a column).

    `cells`: rows of the matrix one after another; of families, each within itself and then by the
    rest. `shared`: groups in several parts, which train in all of them or test in all of them.
    `out`: traces that are not used, by part and reason. `differ`: settings that are not those of
    the first run. A probe that does not transfer may have read something else, or the same thing
    written otherwise; one that does says nothing of use.
    """

    by: str
    names: list[str]
    site: str
    label: str
    kind: str
    estimator: str
    classes: list[Any] | None
    positive: str | None
    seed: int
    cells: list[TransferCell]
    shared: int
    out: dict[str, dict[str, int]]
    differ: dict[str, list[Any]]
    headline: str

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe transfer --json`."""
        return vars(self) | {"cells": [cell.to_dict() for cell in self.cells]}

    def matrix(self, metric: str) -> pd.DataFrame:
        """One metric: a row for what trained, a column for what was read."""
        found = {(c.train, c.test): c.metrics[metric].value for c in self.cells}
        frame = pd.Series(found).unstack()
        order = list(dict.fromkeys(c.train for c in self.cells))
        return frame.reindex(index=order, columns=self.names)


def transfer(
    runs: Sequence[Run],
    label: str,
    site: str,
    options: Options | None = None,
    *,
    table: LabelTable | None = None,
    across_settings: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Transfer:
    """How well does a probe that was trained on one run read the others? Every run on every run.

    Each run is split as by `fit_probe` (runs that share problem groups together), penalties are
    chosen within the training groups, thresholds come from the training run's own control groups,
    and each cell is the held-out groups of the run that is read. `across_settings`: compare runs of
    other checkpoints, tau, K policy, template or dtype, which is refused otherwise: their thoughts
    need not mean the same, and `differ` names what is not equal. Raises UserError for fewer than
    two runs, one given twice, classes or widths that differ, a run without site or label, and one
    with too few groups of a class.
    """
    asked = options or Options()
    names = _names(runs)
    differ = _differing(runs, names, across_settings)
    found = [labelled(run, site, label, asked, table) for run in runs]
    _refuse_other_labels(found, names)
    part = np.repeat(np.arange(len(runs)), [len(one.y) for one in found])
    pool = Pool(
        names,
        found[0].kind,
        found[0].classes,
        _joined(found),
        np.concatenate([one.y for one in found]),
        np.concatenate([one.groups for one in found]),
        part,
    )
    judge = judge_of(pool, asked, found[0].site.place.how == "all")
    readings = []
    for i, name in enumerate(names):
        if progress is not None:
            progress(name)
        readings.append(judge.read(np.arange(len(names)) == i))
    cells = [
        judge.cell(names[i], j, readings[i], readings[j] if i != j else None)
        for i in range(len(runs))
        for j in range(len(runs))
    ]
    out = {name: one.out for name, one in zip(names, found, strict=True)}
    return judge.result("run", label, str(found[0].site), cells, out, differ)


@dataclass(frozen=True)
class Judge:
    """Fits on parts of a pool and judges on the held-out groups of one."""

    pool: Pool
    rows: Rows
    estimator: str | BaseEstimator
    options: Options

    def read(self, trains: NDArray[np.bool_]) -> Reading:
        """Fit on the parts that train [parts]; the readings of every test row."""
        with one_thread_each():
            return self.pool.read(trains, self.rows, self.estimator, self.options.seed)

    def cell(self, train: str, test: int, reading: Reading, within: Reading | None) -> TransferCell:
        """How does a reading do on one part, and how next to the one from within it?"""
        pool, seed = self.pool, self.options.seed
        here = pool.part[self.rows.test] == test
        y, groups = pool.y[self.rows.test][here], pool.groups[self.rows.test][here]
        draws = group_draws(groups, self.options.draws, seed)
        told = reading.test[here]
        metrics, withheld = evaluate(
            pool.kind, y, told, groups, seed, draws, reading.limits, pool.classes
        )
        less = {}
        if within is not None:
            both = (reading.limits, within.limits)
            less = difference(pool.kind, y, told, within.test[here], groups, seed, draws, both)
        return TransferCell(
            train,
            pool.names[test],
            len(y),
            len(set(groups)),
            reading.fitted.penalty,
            metrics,
            withheld,
            less,
        )

    def result(
        self,
        by: str,
        label: str,
        site: str,
        cells: list[TransferCell],
        out: dict[str, dict[str, int]],
        differ: dict[str, list[Any]],
    ) -> Transfer:
        """All cells together, with what they have in common."""
        return Transfer(
            by=by,
            names=self.pool.names,
            site=site,
            label=label,
            kind=self.pool.kind,
            estimator=estimator_name(self.estimator),
            classes=self.pool.classes,
            positive=self.options.positive,
            seed=self.options.seed,
            cells=cells,
            shared=self.pool.shared,
            out=out,
            differ=differ,
            headline=_headline(self.pool.kind, cells),
        )


def judge_of(pool: Pool, options: Options, ragged: bool) -> Judge:
    """Split the pool and choose the estimator; `ragged`: is the site `@all`?"""
    wanted = options.estimator or strongest(pool.kind)
    estimator = resolve(wanted, pool.kind, ragged)
    rows = split_parts(pool, options.seed, options.folds).rows(pool.groups)
    return Judge(pool, rows, estimator, options)


def labelled(
    run: Run, site: str, label: str, options: Options, table: LabelTable | None
) -> Population:
    """The traces of a run that have the site and the label, as the options read it."""
    return population(
        run,
        parse_site(site),
        label,
        table=table,
        kind=options.kind,
        positive=options.positive,
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """How are the runs called? By their folders, by whole paths where two are named alike."""
    if len(runs) < 2:
        raise UserError(f"transfer: {len(runs)} run given; expected at least two")
    paths = [run.path for run in runs]
    twice = [path for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise UserError(f"transfer: {twice[0]} is given twice; give each run once")
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _differing(runs: Sequence[Run], names: Sequence[str], allowed: bool) -> dict[str, list[Any]]:
    first = runs[0].settings
    differ = {
        name: [run.settings[name] for run in runs]
        for name in first
        if any(run.settings[name] != first[name] for run in runs)
    }
    if differ and not allowed:
        name, values = next(iter(differ.items()))
        other = next(i for i, value in enumerate(values) if value != values[0])
        raise UserError(
            f"{names[other]}: {name} is {values[other]}, that of {names[0]} {values[0]}; thoughts"
            " made otherwise are not comparable: give runs of the same settings, or"
            " --across-settings to see how far a probe carries all the same"
        )
    return differ


def _refuse_other_labels(found: Sequence[Population], names: Sequence[str]) -> None:
    first = found[0]
    for one, name in zip(found[1:], names[1:], strict=True):
        if (one.kind, one.classes) != (first.kind, first.classes):
            raise UserError(
                f"{name}: --label '{one.label}' is {_told(one)}, in {names[0]} {_told(first)};"
                " every run trains a probe and needs the same classes: give --kind or --positive"
                " VALUE, or leave a run out"
            )
        widths = [np.shape(x.X[0])[-1] for x in (first, one) if x.X is not None]
        if widths[0] != widths[-1]:
            raise UserError(
                f"{name}: {widths[-1]} values at --site {one.site}, {names[0]} has {widths[0]}; a"
                " probe of one cannot read the other"
            )


def _told(one: Population) -> str:
    if one.classes is None:
        return "a number"
    return f"{one.kind} ({', '.join(map(spelled, one.classes[:6]))})"


def _joined(found: Sequence[Population]) -> Features:
    if isinstance(found[0].X, np.ndarray):
        return np.concatenate([np.asarray(one.X) for one in found])
    return [row for one in found for row in (one.X if one.X is not None else [])]


def spelled(value: Any) -> str:
    """A class or family as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _headline(kind: str, cells: Sequence[TransferCell]) -> str:
    """One sentence: how good within, how good across, and where it is worst."""
    name = HEADLINE_METRIC[kind]
    if any(math.isnan(cell.metrics[name].value) for cell in cells):
        name = "accuracy" if kind != "number" else "mae"
    sides = [[c for c in cells if bool(c.difference) is across] for across in (False, True)]
    ranges = [sorted(c.metrics[name].value for c in side) for side in sides]
    within, across = (f"{values[0]:.3f} to {values[-1]:.3f}" for values in ranges)
    pick = max if name == "mae" else min
    worst = pick(sides[1], key=lambda c: c.metrics[name].value)
    value, less = worst.metrics[name], worst.difference[name]
    return (
        f"{name} {within} within, {across} across; worst trained on {worst.train} and read on"
        f" {worst.test}: {value.value:.3f} [{value.low:.3f}, {value.high:.3f}], that is"
        f" {less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}] of the probe trained there"
    )
