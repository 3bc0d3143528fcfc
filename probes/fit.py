"""Can a label be read linearly at one site of a run, on problems the probe has not seen?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.artifact import Probe, Weights, weights_of, write_probe
from probes.estimators import ESTIMATOR, class_scores, fit_logistic
from probes.evaluate import evaluate_predictions, majority_predictions, permute_between_groups
from probes.intervals import Estimate
from probes.population import population
from probes.sites import parse_site
from probes.splits import grouped_split

__all__ = ["Control", "ProbeResult", "fit_probe", "save_probe"]

MIN_TEST_GROUPS = 5
CLASS_MEANS = ("balanced_accuracy", "auroc")


@dataclass(frozen=True)
class Control:
    """What does a probe score that cannot know? The figures to read `metrics` against."""

    name: str
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class ProbeResult:
    """How well is the label read at the site, and by which weights?

    `n`, `groups`: traces and groups in the population, training and test together; `out`: traces
    that are not in it, by reason. `metrics` and `controls` are on held-out groups; `withheld`: why
    a metric has no value (null). `settings`: those that a run must share for the probe to apply.
    Decodability only: nothing here says that the model uses what the probe reads.
    """

    site: str
    label: str
    label_level: str
    estimator: str
    classes: list[Any]
    seed: int
    n: int
    groups: int
    n_test: int
    groups_test: int
    out: dict[str, int]
    metrics: dict[str, Estimate]
    controls: list[Control]
    withheld: dict[str, str]
    weights: Weights
    run: str
    run_hash: str
    checkpoint_hash: str
    settings: dict[str, Any]
    split_hash: str
    train_groups: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe fit --json`, without weights and group names."""
        plain = {k: v for k, v in vars(self).items() if k not in ("weights", "train_groups")}
        plain["metrics"] = _metrics(self.metrics)
        plain["controls"] = [
            {"name": c.name, "metrics": _metrics(c.metrics)} for c in self.controls
        ]
        return plain


def _metrics(metrics: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {name: estimate.to_dict() for name, estimate in metrics.items()}


def fit_probe(run: Run, label: str, site: str, seed: int = 0) -> ProbeResult:
    """How well does a logistic probe at `site` read `label`?

    Three quarters of the groups train, one quarter tests, beside two controls: the same fit on
    labels permuted between groups, and the commonest class. Means over classes are withheld when a
    class is in fewer than five held-out groups. Raises UserError for a site or label that the run
    does not have, a single class, or too few groups.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}; expected 0 to 2**63 - 1")
    seen = population(run, parse_site(site), label, kind="multiclass")
    if not isinstance(seen.X, np.ndarray) or seen.classes is None:
        raise UserError(f"--site {seen.site}: a logistic probe reads one row per trace; pool them")
    x, y, groups, classes = seen.X.astype(np.float64), seen.y, seen.groups, seen.classes
    split = grouped_split(y, groups, classes, seed)
    train, test, C = split.train, split.test, len(classes)

    model = fit_logistic(x[train], y[train], groups[train], seed)
    metrics = evaluate_predictions(y[test], class_scores(model, x[test], C), groups[test], seed)

    y_null = y.copy()
    for side, offset in ((train, 1), (test, 2)):
        y_null[side] = permute_between_groups(y[side], groups[side], seed + offset)
    null = fit_logistic(x[train], y_null[train], groups[train], seed)
    shuffled = evaluate_predictions(
        y_null[test], class_scores(null, x[test], C), groups[test], seed
    )
    commonest = evaluate_predictions(
        y[test], majority_predictions(y[train], test.size, C), groups[test], seed
    )
    withheld = _withheld(split.test_groups, classes)
    return ProbeResult(
        site=str(seen.site),
        label=label,
        label_level=seen.label_level,
        estimator=ESTIMATOR,
        classes=classes,
        seed=seed,
        n=int(y.size),
        groups=len(set(groups)),
        n_test=int(test.size),
        groups_test=len(set(groups[test])),
        out=seen.out,
        metrics=_without(metrics, withheld),
        controls=[
            Control("shuffled_labels", _without(shuffled, withheld)),
            Control("majority_class", _without(commonest, withheld)),
        ],
        withheld=withheld,
        weights=weights_of(model, C),
        run=run.name,
        run_hash=run.hash,
        checkpoint_hash=run.manifest["checkpoint_hash"],
        settings=run.settings,
        split_hash=split.hash,
        train_groups=split.train_groups,
    )


def _withheld(test_groups: NDArray[np.int64], classes: list[Any]) -> dict[str, str]:
    """Which metrics have no value, and why? Those in which a class of few groups weighs fully."""
    rarest = int(test_groups.argmin())
    if test_groups[rarest] >= MIN_TEST_GROUPS:
        return {}
    reason = (
        f"class {classes[rarest]!r} is in {test_groups[rarest]} held-out groups, at least"
        f" {MIN_TEST_GROUPS} are needed: trace more problems"
    )
    return dict.fromkeys(CLASS_MEANS, reason)


def _without(metrics: dict[str, Estimate], withheld: dict[str, str]) -> dict[str, Estimate]:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    return {name: nothing if name in withheld else e for name, e in metrics.items()}


def save_probe(result: ProbeResult, folder: Path) -> Probe:
    """Keep a fitted probe in `folder` (see probes.artifact)."""
    packages = ("nfcot-scope", "numpy", "scikit-learn", "scipy", "safetensors")
    meta = result.to_dict() | {
        "train_groups": list(result.train_groups),
        "versions": {name: version(name) for name in packages},
    }
    return write_probe(folder, result.weights, meta)
