"""How long does a sweep of probes take, and how much less than loops over scikit-learn?

    python benchmarks/probe_sweep.py                     # 5,000 problems, about 10 minutes
    python benchmarks/probe_sweep.py --traces 500 --sites u,h@2 --places 1,3   # to see that it runs

Two figures from one run of the demo checkpoint, in one process after another:

* seconds of the whole sweep: every layer and `u`, `eps`, every thought, three estimators, five
  grouped folds, permutations and all controls, states of the controls included (limit 180);
* logistic probes alone, as a sweep fits them (five folds, penalty by inner grouped folds, then the
  null: exchanged labels with each fold's penalty), by `probes.crossfit` and by the double loop over
  scikit-learn's LogisticRegression, cell by cell and alternating, one thread each: the ratio of
  seconds (limit 10, for labels alone too: `ratio_labels_alone`) and the largest difference of the
  AUROC, out of fold and on the test groups that neither has seen, where each way refits on all
  training rows with the penalty that it chose (limit 0.005). The null has 19 permutations here,
  for the loop's sake; with the 99 of a sweep the ratio is larger.

Prints one JSON document; exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nfcot_model import collect, demo_path, load_reasoner, make_world, read_run
from nfcot_model.terminal import emit_json
from nfcot_model.traces import Run
from probes.crossfit import crossfit, fit_all
from probes.estimators import ESTIMATORS, STRENGTHS
from probes.features import read_space
from probes.jobs import with_values
from probes.population import population
from probes.reading import task_of
from probes.sites import parse_site
from probes.splits import split_groups
from probes.sweep import Plan, sweep
from probes.threads import one_thread_each
from probes.units import Units

LIMIT_SECONDS, LIMIT_RATIO, LIMIT_AUROC = 180.0, 10.0, 0.005
LABEL = "offset"
PERMUTATIONS = 19


def traced(folder: Path, traces: int) -> Run:
    """A run of the demo checkpoint in which every trace has eight thoughts, every layer kept."""
    path = folder / f"digits-{traces}"
    problems = make_world("digits", "test", seed=21, n=traces, steps=(8, 8))
    collect(load_reasoner(demo_path()), problems, path, tau=0.7, activations="all")
    return read_run(path, verify=False)


def by_loop(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, permuted: np.ndarray
) -> tuple[np.ndarray, float]:
    """Out-of-fold probabilities by the double loop over scikit-learn; seconds without the null."""
    start = time.perf_counter()
    told = np.zeros((len(y), len(set(y))))
    chosen = []
    for b in range(fold.max() + 1):
        train = fold != b
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": list(STRENGTHS)},
            scoring="neg_log_loss",
            cv=PredefinedSplit(fold[train]),
        )
        chosen.append(search.fit(X[train], y[train]).best_estimator_)
        told[fold == b] = search.predict_proba(X[fold == b])
    alone = time.perf_counter() - start
    for labels in permuted:
        for b, model in enumerate(chosen):
            balanced_accuracy_score(
                labels[fold == b],
                clone(model).fit(X[fold != b], labels[fold != b]).predict(X[fold == b]),
            )
    return told, alone


def by_crossfit(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, permuted: np.ndarray
) -> tuple[np.ndarray, float]:
    """The same by this package."""
    features, labels, folds = (torch.from_numpy(a) for a in (X, y, fold))
    logistic, classes = [ESTIMATORS["logistic"]], len(set(y))
    start = time.perf_counter()
    crossfit(features, labels, "multiclass", classes, folds, logistic)
    alone = time.perf_counter() - start
    null = torch.from_numpy(permuted)
    found = crossfit(features, labels, "multiclass", classes, folds, logistic, null)
    return found["logistic"].scores.softmax(-1).double().numpy(), alone


def tested_by_loop(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, unseen: np.ndarray
) -> np.ndarray:
    """Probabilities of unseen rows by scikit-learn, refitted on all rows."""
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": list(STRENGTHS)},
        scoring="neg_log_loss",
        cv=PredefinedSplit(fold),
    )
    return search.fit(X, y).predict_proba(unseen)


def tested_by_crossfit(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, unseen: np.ndarray
) -> np.ndarray:
    """The same by this package."""
    features, labels, folds = (torch.from_numpy(a) for a in (X, y, fold))
    logistic, classes = ESTIMATORS["logistic"], len(set(y))
    found = crossfit(features, labels, "multiclass", classes, folds, [logistic])["logistic"]
    shared, fits = fit_all(features, labels, classes, logistic, found.penalty)
    return fits.scores(shared.transform(torch.from_numpy(unseen)))[0].softmax(-1).double().numpy()


def macro_auroc(y: np.ndarray, told: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(y == c, told[:, c]) for c in sorted(set(y))]))


def compared(run: Run, sites: list[str]) -> dict[str, object]:
    """Both ways on these sites, alternating."""
    rows = []
    for name in sites:
        site = parse_site(name)
        found = population(run, site, LABEL, values="none")
        parts = split_groups(found.y, found.groups, found.classes, seed=0).rows(found.groups)
        task = task_of(found, parts, 0).training()
        everything = with_values(run, found, site, read_space(run, site)).X
        X = np.ascontiguousarray(everything[parts.train])
        unseen = np.ascontiguousarray(everything[parts.test])
        rng = np.random.default_rng(0)
        permuted = np.stack([rng.permutation(task.y) for _ in range(PERMUTATIONS)])
        seconds, alone, auroc, tested = {}, {}, {}, {}
        with one_thread_each():
            for way, do, test in (
                ("scikit-learn", by_loop, tested_by_loop),
                ("crossfit", by_crossfit, tested_by_crossfit),
            ):
                start = time.perf_counter()
                told, alone[way] = do(X, task.y, task.rows.fold, permuted)
                seconds[way] = time.perf_counter() - start
                if way == "crossfit":  # it went over the labels once more, to time them alone
                    seconds[way] -= alone[way]
                auroc[way] = macro_auroc(task.y, told)
                told = test(X, task.y, task.rows.fold, unseen)
                tested[way] = macro_auroc(found.y[parts.test], told)
        rows.append(
            {
                "site": name,
                "seconds": seconds,
                "labels_alone": alone,
                "auroc": auroc,
                "auroc_test": tested,
            }
        )
        sys.stderr.write(f"{rows[-1]}\n")
    total, alone = (
        {way: sum(r[name][way] for r in rows) for way in ("scikit-learn", "crossfit")}
        for name in ("seconds", "labels_alone")
    )
    return {
        "compared": rows,
        "compared_permutations": PERMUTATIONS,
        "ratio": total["scikit-learn"] / total["crossfit"],
        "ratio_labels_alone": alone["scikit-learn"] / alone["crossfit"],
        **{
            f"{name}_difference_max": max(
                abs(r[name]["scikit-learn"] - r[name]["crossfit"]) for r in rows
            )
            for name in ("auroc", "auroc_test")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=5000)
    parser.add_argument("--run", type=Path, help="a run made by an earlier call with --keep")
    parser.add_argument("--keep", type=Path, help="keep the run in this folder")
    parser.add_argument("--sites", default="u,eps,h")
    parser.add_argument("--places")
    parser.add_argument("--compared", default="u@1,u@6,eps@3,h@0@3,h@2@1,h@2@5,h@4@3")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp()) if args.keep is None else args.keep
    try:
        run = read_run(args.run, verify=False) if args.run else traced(scratch, args.traces)
        shutil.rmtree(run.path / "derived" / "controls", ignore_errors=True)
        plan = Plan(
            sites=tuple(args.sites.split(",")),
            places=None if args.places is None else tuple(args.places.split(",")),
        )
        start = time.perf_counter()
        found = sweep(run, LABEL, plan, Units)
        seconds = time.perf_counter() - start
        comparison = compared(run, args.compared.split(","))
    finally:
        if args.keep is None and args.run is None:
            shutil.rmtree(scratch, ignore_errors=True)
    result = {
        "traces": len(run.traces),
        "cells": len(found.cells),
        "control_cells": len(found.controls),
        "permutations": plan.permutations,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "seconds_limit": LIMIT_SECONDS,
        "best": {"site": found.best.site, "estimator": found.best.estimator},
        "ratio_limit": LIMIT_RATIO,
        **comparison,
    }
    emit_json(result)
    missed = (
        seconds > LIMIT_SECONDS
        or comparison["ratio"] < LIMIT_RATIO
        or comparison["ratio_labels_alone"] < LIMIT_RATIO
        or comparison["auroc_difference_max"] > LIMIT_AUROC
        or comparison["auroc_test_difference_max"] > LIMIT_AUROC
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
