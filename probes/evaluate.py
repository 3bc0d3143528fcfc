"""How well does a fitted probe read its label, on groups that had no part in making it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.apply import read_in_parts
from probes.artifact import Probe
from probes.calibration import Bin, calibration_table
from probes.controls.compare import Control
from probes.features import read_space
from probes.fit import Options
from probes.headline import HEADLINE_METRIC, SIGNIFICANT
from probes.intervals import Draws, Estimate, group_draws
from probes.metrics import difference, evaluate
from probes.permutations import Permutation, permutation_test
from probes.sites import SiteRows, real_site, site_rows
from probes.tables import LabelTable
from probes.thresholds import Thresholds, thresholds
from probes.truth import truth_of

__all__ = ["ControlSet", "Evaluation", "evaluate_probe"]

MAJORITY = "the shares of classes among these very rows: nothing that sees no thought does better"


@dataclass(frozen=True)
class ControlSet:
    """Which clean run fixed the thresholds? All its traces counted as negatives.

    `out`: those that did not take part, by reason.
    """

    run: str
    run_hash: str
    n: int
    groups: int
    out: dict[str, int]


@dataclass(frozen=True)
class Evaluation:
    """How well does the probe read the label of this run?

    `n`, `groups`: the traces it was judged on; `out`: those it was not, by reason. `metrics` with
    95 % intervals over groups, `withheld`: why one has no value; `recall_at_…` is at a threshold
    that other traces fixed, `fpr_at_…` the rate of false alarms that this threshold has here.
    `controls`: the commonest class; what else could have read the label was asked where the probe
    was fitted (`probe_headline`). `permutation`: labels exchanged between groups. `calibration`: do
    probabilities come true here? Decodability only: nothing here says that the model uses what the
    probe reads.
    """

    site: str
    label: str
    kind: str
    estimator: str
    classes: list[Any] | None
    positive: str | None
    seed: int
    n: int
    groups: int
    out: dict[str, int]
    metrics: dict[str, Estimate]
    withheld: dict[str, str]
    controls: list[Control]
    permutation: Permutation
    thresholds: Thresholds | None
    control_set: ControlSet | None
    calibration: list[Bin]
    headline: str
    probe_headline: str
    probe_hash: str
    run: str
    run_hash: str

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe evaluate --json`."""
        plain: dict[str, Any] = dict(vars(self))
        return plain | {
            "metrics": {name: e.to_dict() for name, e in self.metrics.items()},
            "controls": [control.to_dict() for control in self.controls],
            "permutation": jsonable(self.permutation.to_dict()),
            "thresholds": jsonable(self.thresholds),
            "control_set": jsonable(self.control_set),
            "calibration": jsonable(self.calibration),
        }


def evaluate_probe(
    probe: Probe,
    run: Run,
    *,
    label: str | None = None,
    table: LabelTable | None = None,
    options: Options | None = None,
    control_run: Run | None = None,
) -> Evaluation:
    """How well does the probe read the label on groups it was not trained on?

    Groups that trained the probe, or fixed its thresholds, are left out and counted: on the run it
    was fitted on its test groups remain, with the figures of the fit. `label`: another one of the
    same classes; `table`: the user's own. Of `options`, seed (the probe's), draws and permutations
    count. `control_run`: its traces, all of them negatives, fix new thresholds (Goldowsky-Dill et
    al. 2025, arXiv 2502.03407); groups that it shares with the training or with the traces judged
    are left out of it. Raises UserError for a run made otherwise, without the site or the label,
    and when no group is left.
    """
    asked = options or Options(seed=int(probe.meta["seed"]))
    probe.refuse_mismatch(run)
    site = real_site(run, probe.site)
    rows = site_rows(run, site)
    name = label or probe.meta["label"]
    truth = truth_of(probe, run, site, rows, label=name, table=table)
    groups = run.traces["group"].to_numpy(dtype=object)[rows.trace]
    trained = np.isin(groups.astype(str), probe.meta["train_groups"])
    held = np.isin(groups.astype(str), probe.meta["control_groups"])
    if control_run is not None:
        held = np.zeros_like(held)
    judged = truth.known & ~trained & ~held
    out = {
        site.place.lacking: rows.out,
        f"no label '{name}'": int((~truth.known & ~truth.strange).sum()),
        "a label that is no class of the probe": int(truth.strange.sum()),
        "a group that trained the probe": int((truth.known & trained).sum()),
        "a group that fixed its thresholds": int((truth.known & held & ~trained).sum()),
    }
    if not judged.any():
        counts = ", ".join(f"{count} with {why}" for why, count in out.items() if count)
        raise UserError(
            f"{run.name}: no trace is left to evaluate the probe on ({counts}); give a run of other"
            " problems that has the label"
        )
    y, groups = truth.y[judged], groups[judged]
    told = read_in_parts(probe, run, read_space(run, site), site, rows.where(judged))
    limits, control_set = probe.limits, None
    if control_run is not None:
        limits, control_set = _control_set(probe, control_run, set(groups.astype(str)))
    draws = group_draws(groups, asked.draws, asked.seed)
    kind, classes = probe.kind, probe.meta["classes"]
    metrics, withheld = evaluate(kind, y, told, groups, asked.seed, draws, limits, classes)
    permutation = permutation_test(
        kind,
        y,
        told,
        groups,
        asked.permutations,
        asked.seed,
        run.traces["K"].to_numpy(dtype=np.int64)[rows.trace[judged]],
    )
    where = f"on {len(y)} traces of {len(set(groups))} groups of {run.name}"
    return Evaluation(
        site=str(site),
        label=name,
        kind=kind,
        estimator=probe.meta["estimator"],
        classes=classes,
        positive=probe.meta["positive"],
        seed=asked.seed,
        n=len(y),
        groups=len(set(groups)),
        out=out,
        metrics=metrics,
        withheld=withheld,
        controls=[] if classes is None else [_majority(kind, y, told, groups, draws, asked.seed)],
        permutation=permutation,
        thresholds=limits,
        control_set=control_set,
        calibration=[] if classes is None else calibration_table(kind, y, told, groups, draws),
        headline=_headline(kind, metrics, permutation, where),
        probe_headline=probe.meta["headline"],
        probe_hash=probe.hash,
        run=run.name,
        run_hash=run.hash,
    )


def _control_set(probe: Probe, run: Run, judged: set[str]) -> tuple[Thresholds, ControlSet]:
    if probe.kind != "binary":
        raise UserError(
            f"--control: only a probe of a binary label raises alarms, this one is {probe.kind};"
            " leave the control run out"
        )
    probe.refuse_mismatch(run)
    site = real_site(run, probe.site)
    rows = site_rows(run, site)
    groups = run.traces["group"].to_numpy(dtype=object)[rows.trace]
    trained = np.isin(groups.astype(str), probe.meta["train_groups"])
    shared = np.isin(groups.astype(str), sorted(judged)) & ~trained
    clean = ~trained & ~shared
    if not clean.any():
        raise UserError(
            f"--control {run.name}: every group of it trained the probe or is judged; give a clean"
            " run of other problems"
        )
    out = {
        site.place.lacking: rows.out,
        "a group that trained the probe": int(trained.sum()),
        "a group that is judged": int(shared.sum()),
    }
    own: SiteRows = rows.where(clean)
    scores = read_in_parts(probe, run, read_space(run, site), site, own)
    found = thresholds(scores, groups[clean])
    return found, ControlSet(run.name, run.hash, found.negatives, found.groups, out)


def _majority(
    kind: str,
    y: NDArray[np.int64],
    told: NDArray[np.float64],
    groups: NDArray[np.object_],
    draws: Draws,
    seed: int,
) -> Control:
    classes = 2 if kind == "binary" else told.shape[1]
    share = np.bincount(y, minlength=classes) / y.size
    constant = np.tile(share, (y.size, 1)) if kind == "multiclass" else np.full(y.size, share[1])
    metrics, _ = evaluate(kind, y, constant, groups, seed, draws)
    less = difference(kind, y, told, constant, groups, seed, draws)
    return Control("majority_class", MAJORITY, metrics, less)


def _headline(kind: str, metrics: dict[str, Estimate], permutation: Permutation, where: str) -> str:
    """One sentence: the figure, where, and whether permuted labels are read as well."""
    name = HEADLINE_METRIC[kind]
    if math.isnan(metrics[name].value):
        name = "accuracy" if kind != "number" else "mae"
    value = metrics[name]
    shown = f"{name} {value.value:.3f} [{value.low:.3f}, {value.high:.3f}] {where}"
    p = permutation.p_value
    if p is None:
        return f"{shown}; no permutation test ({permutation.reason})"
    if p > SIGNIFICANT:
        return f"reads nothing: {shown} is no better than permuted labels (p {p:.3f})"
    return f"{shown}; better than permuted labels (p {p:.3f})"
