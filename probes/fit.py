"""Can a label be read at one site of a run, on problems the probe has not seen, and only there?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from nfcot_model.files import file_hash
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.calibration import Bin, calibration_table
from probes.controls.compare import Control, Judged, controls_of
from probes.controls.panel import Panel
from probes.controls.states import control_states
from probes.estimators import strongest
from probes.fitting import resolve, some
from probes.headline import headline
from probes.intervals import Estimate, group_draws
from probes.mdl import Mdl
from probes.metrics import evaluate
from probes.permutations import Permutation, permutation_test
from probes.population import Population, population, refuse_absent_positive
from probes.reading import Reading, code_length, read_rows, refuse_unreadable, task_of
from probes.sites import parse_site
from probes.splits import FOLDS, Split, split_groups
from probes.tables import LabelTable
from probes.threads import one_thread_each

__all__ = ["Options", "ProbeResult", "fit_population", "fit_probe"]

MAX_SEED = 2**63


@dataclass(frozen=True)
class Options:
    """How is a probe fitted and judged?

    `estimator`: a name, a scikit-learn estimator, or None for logistic (ridge for numbers).
    `kind`, `positive`: as in `read_labels`. `draws`: resamples behind an interval; `permutations`:
    behind a p-value. `controls`: False for the probe alone. `against`: other sites to read the same
    labels from, in the same table. `split`: whose groups train and test (those of a sweep, say);
    dealt anew when None.
    """

    estimator: str | BaseEstimator | None = None
    kind: str = "auto"
    positive: str | None = None
    seed: int = 0
    folds: int = FOLDS
    draws: int = 1000
    permutations: int = 999
    controls: bool = True
    against: tuple[str, ...] = ()
    split: Split | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < MAX_SEED:
            raise UserError(f"--seed is {self.seed}; expected 0 to 2**63 - 1")
        if self.draws < 100:
            raise UserError(f"--draws is {self.draws}; an interval needs at least 100")
        if self.permutations < 1:
            raise UserError(f"--permutations is {self.permutations}; expected at least 1")


@dataclass(frozen=True)
class ProbeResult:
    """How well is the label read at the site, by which probe, and how well from elsewhere?

    `n`, `groups`: traces and groups of all parts together; `out`: traces that are in none, by
    reason. `metrics`, `controls`, `permutation` are on the held-out test groups, which chose
    nothing; `validation`: the choosing statistic over the training folds. `withheld`: why a metric
    has no value. `settings`: those a run must share for the probe to apply. `headline` says in a
    sentence what the controls leave of it. Decodability only: nothing here says that the model uses
    what the probe reads.
    """

    site: str
    label: str
    label_level: str
    kind: str
    estimator: str
    penalty: float | None
    classes: list[Any] | None
    positive: str | None
    seed: int
    n: int
    groups: int
    n_test: int
    groups_test: int
    n_control: int
    out: dict[str, int]
    validation: float
    metrics: dict[str, Estimate]
    withheld: dict[str, str]
    headline: str
    controls: list[Control]
    permutation: Permutation
    mdl: Mdl | None
    calibration: list[Bin]
    reading: Reading
    split: Split
    run: str
    run_hash: str
    checkpoint_hash: str
    settings: dict[str, Any]
    labels_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe fit --json`, without weights, scores and group names."""
        plain = {k: v for k, v in vars(self).items() if k not in ("reading", "split")}
        limits = self.reading.limits
        return plain | {
            "metrics": {name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "controls": [control.to_dict() for control in self.controls],
            "permutation": self.permutation.to_dict(),
            "mdl": None if self.mdl is None else jsonable(self.mdl),
            "thresholds": None if limits is None else jsonable(limits),
            "calibration": jsonable(self.calibration),
            "split_hash": self.split.hash,
        }


def fit_probe(
    run: Run,
    label: str,
    site: str,
    options: Options | None = None,
    *,
    table: LabelTable | None = None,
    reasoner: NFCoTReasoner | None = None,
    progress: Callable[[str], object] | None = None,
) -> ProbeResult:
    """How well does a probe at `site` read `label`, beside everything that should read it worse?

    A quarter of the problem groups tests and chooses nothing; of a binary label another quarter
    fixes the thresholds of its alarms; the rest trains, with penalties chosen by grouped
    cross-validation. `table`: the user's own labels. `reasoner`: the run's model, for the controls
    that need it (found where the run says it is when None; where it is gone, they are left out with
    the reason). progress: called with the name of what is done next. Raises UserError for a site or
    label that the run does not have, a single class, or too few groups.
    """
    asked = options or Options()
    found = population(
        run, parse_site(site), label, table=table, kind=asked.kind, positive=asked.positive
    )
    refuse_absent_positive(found)
    if asked.split is None:
        split = split_groups(
            found.y, found.groups, found.classes, asked.seed, asked.folds, found.kind == "binary"
        )
    else:
        split = asked.split
        found = in_the_split(found, split)
        refuse_unreadable(found, task_of(found, split.rows(found.groups), asked.seed))
    chosen_estimator(asked, found)
    panel = None
    if asked.controls:
        (progress or _silent)("states of the controls")
        hooks = [found.site.space] if found.site.captured else []
        panel = Panel(run, control_states(run, reasoner, hooks=hooks), asked.seed)
    result = fit_population(run, found, split, asked, panel, progress)
    return result if table is None else replace(result, labels_sha256=file_hash(table.path))


def fit_population(
    run: Run,
    found: Population,
    split: Split,
    options: Options,
    panel: Panel | None,
    progress: Callable[[str], object] | None = None,
) -> ProbeResult:
    """`fit_probe` on rows that are read already, with a split that is made already."""
    with one_thread_each():
        return _fitted(run, found, split, options, panel, progress or _silent)


def _fitted(
    run: Run,
    found: Population,
    split: Split,
    options: Options,
    panel: Panel | None,
    tell: Callable[[str], object],
) -> ProbeResult:
    task = task_of(found, split.rows(found.groups), options.seed)
    estimator = chosen_estimator(options, found)
    X = found.X if found.X is not None else []
    tell("probe")
    reading = read_rows(task, X, estimator)
    y, groups = task.test_y, task.test_groups
    draws = group_draws(groups, options.draws, options.seed)
    metrics, withheld = evaluate(
        found.kind, y, reading.test, groups, options.seed, draws, reading.limits, found.classes
    )
    judged = Judged(task, X, estimator, reading, draws)
    controls = []
    for other in options.against:
        tell(other)
        controls.append(judged.other_site(other, found, run))
    if panel is not None:
        for name, make in controls_of(judged, found, panel, run):
            tell(name)
            controls.append(make())
    tell("permutations")
    K = run.traces["K"].to_numpy(dtype=np.int64)[found.trace[task.rows.test]]
    permutation = permutation_test(
        found.kind, y, reading.test, groups, options.permutations, options.seed, K
    )
    is_number = found.kind == "number"
    return ProbeResult(
        site=str(found.site),
        label=found.label,
        label_level=found.label_level,
        kind=found.kind,
        estimator=reading.fitted.estimator,
        penalty=reading.fitted.penalty,
        classes=found.classes,
        positive=options.positive,
        seed=options.seed,
        n=len(found.y),
        groups=len(set(found.groups)),
        n_test=len(y),
        groups_test=len(set(groups)),
        n_control=len(task.rows.control),
        out=found.out,
        validation=reading.fitted.value,
        metrics=metrics,
        withheld=withheld,
        headline=headline(found.kind, metrics, controls, permutation),
        controls=controls,
        permutation=permutation,
        mdl=code_length(task, X, estimator, reading.fitted.penalty, options.draws),
        calibration=[]
        if is_number
        else calibration_table(found.kind, y, reading.test, groups, draws),
        reading=reading,
        split=split,
        run=run.name,
        run_hash=run.hash,
        checkpoint_hash=run.manifest["checkpoint_hash"],
        settings=run.settings,
    )


def in_the_split(found: Population, split: Split) -> Population:
    """The rows whose group is in one of the parts; the others are counted out."""
    parts = split.rows(found.groups)
    rows = np.sort(np.concatenate([parts.train, parts.control, parts.test]))
    if len(rows) == len(found.y):
        return found
    X = None if found.X is None else some(found.X, rows)
    return replace(
        found,
        X=X,
        y=found.y[rows],
        groups=found.groups[rows],
        trace=found.trace[rows],
        row=found.row[rows],
        out=found.out | {"a group that is in no part of the split": len(found.y) - len(rows)},
    )


def chosen_estimator(options: Options, found: Population) -> str | BaseEstimator:
    """The estimator that was asked for, or the strongest; raises UserError if it cannot be used."""
    wanted = strongest(found.kind) if options.estimator is None else options.estimator
    return resolve(wanted, found.kind, found.site.place.how == "all")


def _silent(name: str) -> None:
    """Nobody watches."""
