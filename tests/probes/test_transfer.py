"""Transfer between runs and families: within-run figures, planted failures, no leak, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nfcot_model.errors import UserError
from nfcot_model.files import canonical_json
from nfcot_model.traces import Run
from probes.families import families
from probes.features import read_site
from probes.fit import Options, fit_probe
from probes.pooled import Pool, split_parts
from probes.sites import parse_site, site_rows
from probes.splits import split_groups
from probes.transfer import Transfer, TransferCell, transfer
from tests.synthetic_run import synthetic_run

MADE: dict[str, Any] = {"D": 24, "tau": 0.3, "steps": (1, 3)}
OPTIONS = Options(controls=False, permutations=9, draws=200, positive="add")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def a(folder: Path) -> Run:
    return synthetic_run(folder / "a", n=160, **MADE)


@pytest.fixture(scope="module")
def b(folder: Path) -> Run:
    return synthetic_run(folder / "b", n=120, seed=1, **MADE)


def turned(run: Run, traces: list[str] | None = None) -> Run:
    """The same thoughts, but what was `add` is called `times` (in some traces) and vice versa."""
    chosen = run.thoughts["trace_id"].isin(
        traces if traces is not None else run.thoughts["trace_id"]
    )
    other = {"add": "times", "times": "add"}
    labels = []
    for text, turn in zip(run.thoughts["labels"], chosen, strict=True):
        said = json.loads(text)
        name = said["operation"]
        labels.append(canonical_json(said | {"operation": other.get(name, name) if turn else name}))
    return replace(run, thoughts=run.thoughts.assign(labels=labels))


def cell(found: Transfer, train: str, test: str) -> TransferCell:
    return next(c for c in found.cells if (c.train, c.test) == (train, test))


def test_the_diagonal_is_what_fit_says_of_each_run(a: Run, b: Run) -> None:
    found = transfer([a, b], "operation", "u@0", OPTIONS)
    assert (found.by, found.names, found.shared, found.differ) == ("run", ["a", "b"], 0, {})
    for run in (a, b):
        fitted = fit_probe(run, "operation", "u@0", OPTIONS)
        own = cell(found, run.name, run.name)
        assert json.dumps({k: e.to_dict() for k, e in own.metrics.items()}) == json.dumps(
            {k: e.to_dict() for k, e in fitted.metrics.items()}
        )
        assert (own.n, own.penalty, own.difference) == (fitted.n_test, fitted.penalty, {})
        assert found.out[run.name] == fitted.out


def test_the_same_code_carries_and_a_turned_one_does_not(a: Run, b: Run) -> None:
    found = transfer([a, b], "operation", "u@-1", OPTIONS)
    there = cell(found, "a", "b")
    assert there.metrics["auroc"].low > 0.9
    assert abs(there.difference["auroc"].value) < 0.05
    assert there.n == cell(found, "b", "b").n
    against = transfer([a, turned(b)], "operation", "u@-1", OPTIONS)
    failed = cell(against, "a", "b")
    assert failed.metrics["auroc"].value < 0.4
    assert failed.difference["auroc"].high < -0.3
    assert "worst trained on" in against.headline
    assert f"{against.matrix('auroc').loc['a', 'b']:.3f}" == f"{failed.metrics['auroc'].value:.3f}"
    assert against.matrix("auroc").shape == (2, 2)
    json.dumps(against.to_dict(), allow_nan=False)


def test_a_group_that_trained_is_not_read_in_another_run(folder: Path) -> None:
    """A planted leak: the same problems think the same noise in both runs, which says nothing.

    A probe of 160 values knows the 40 problems it was trained on by heart: tested on those of the
    other run it would be right, on those that are held out of both it is at chance.
    """
    made = {"n": 160, "D": 160, "steps": (1, 1), "signal": False}
    runs = [synthetic_run(folder / name, **made) for name in ("leak-a", "leak-b")]
    found = transfer(runs, "operation", "u@0", OPTIONS)
    assert found.shared == 160
    across = cell(found, "leak-a", "leak-b")
    assert across.metrics == cell(found, "leak-b", "leak-b").metrics
    assert across.metrics["auroc"].low <= 0.5 <= across.metrics["auroc"].high
    assert across.groups == 40
    fitted = fit_probe(runs[0], "operation", "u@0", OPTIONS)
    trained = runs[1].traces["group"].isin(set(fitted.split.fold)).to_numpy()
    u = read_site(runs[1], parse_site("u@0"), site_rows(runs[1], parse_site("u@0")))
    said = fitted.reading.fitted.read(u[trained])[:, 0]
    true = runs[1].step_labels()["operation"][trained] == "add"
    assert roc_auc_score(true, said) > 0.95  # what a leak would look like


def test_runs_that_share_some_problems_lose_none(folder: Path, a: Run) -> None:
    """Whoever shares groups is split together: every cell keeps its quarter."""
    more = synthetic_run(folder / "more", **MADE | {"n": 220, "tau": 0.4})
    found = transfer([a, more], "operation", "u@0", OPTIONS, across_settings=True)
    assert found.shared == 160
    assert found.differ == {"decode.tau": [0.3, 0.4]}
    for c in found.cells:
        total = {"a": 160, "more": 220}[c.test]
        assert 0.15 * total < c.groups < 0.35 * total
        assert c.metrics["auroc"].value > 0.9


def test_three_classes_and_numbers_transfer_too(a: Run, b: Run) -> None:
    options = replace(OPTIONS, positive=None)
    classes = transfer([a, b], "operation", "u@0", options)
    assert cell(classes, "a", "b").metrics["balanced_accuracy"].value > 0.9
    numbers = transfer([a, b], "offset", "u@0", replace(options, kind="number"))
    assert cell(numbers, "b", "a").metrics["r2"].value > 0.5
    assert numbers.headline.startswith("r2")


def test_trajectories_of_unequal_length_transfer(folder: Path) -> None:
    """Attention pooling reads lists, not a matrix."""
    made = {"n": 50, "D": 4, "steps": (1, 2)}
    runs = [synthetic_run(folder / f"ragged-{i}", seed=i, **made) for i in range(2)]
    found = transfer(runs, "steps", "u@all", replace(OPTIONS, positive=None, estimator="attention"))
    assert [c.n for c in found.cells] == [found.cells[0].n, found.cells[1].n] * 2


def family_run(run: Run, odd: str = "odd") -> Run:
    """Problems dealt to two families by a label of the problem."""
    labels = [
        canonical_json(json.loads(text) | {"family": ["even", odd][i % 2]})
        for i, text in enumerate(run.traces["labels"])
    ]
    return replace(run, traces=run.traces.assign(labels=labels))


def test_a_family_that_is_written_otherwise_is_not_read(a: Run) -> None:
    run = family_run(a)
    alike = families(run, "operation", "u@0", "family", OPTIONS)
    assert [(c.train, c.test) for c in alike.cells] == [
        ("even", "even"),
        ("all but even", "even"),
        ("odd", "odd"),
        ("all but odd", "odd"),
    ]
    assert all(c.metrics["auroc"].value > 0.9 for c in alike.cells)
    odd = [t for i, t in enumerate(run.traces["trace_id"]) if i % 2]
    unlike = families(turned(run, odd), "operation", "u@0", "family", OPTIONS)
    for name in ("even", "odd"):
        assert cell(unlike, name, name).metrics["auroc"].value > 0.9
        assert cell(unlike, f"all but {name}", name).metrics["auroc"].value < 0.6
        assert cell(unlike, f"all but {name}", name).difference["auroc"].high < -0.2
    assert unlike.by == "family"
    json.dumps(unlike.to_dict(), allow_nan=False)


def test_traces_without_a_family_are_counted(a: Run) -> None:
    labels = list(family_run(a).traces["labels"])
    labels[:7] = ['{"steps": 1}'] * 7
    run = replace(a, traces=a.traces.assign(labels=labels))
    found = families(run, "operation", "u@0", "family", OPTIONS)
    assert found.out["a"]["no family"] == 7


def test_settings_that_differ_are_refused(folder: Path, a: Run, b: Run) -> None:
    stranger = synthetic_run(folder / "stranger", n=60, checkpoint_hash="another", **MADE)
    with pytest.raises(
        UserError, match=r"stranger: checkpoint_hash is another, that of a synthetic; .*--across"
    ):
        transfer([a, b, stranger], "operation", "u@0", OPTIONS)


def test_bad_input_is_one_line(folder: Path, a: Run, b: Run) -> None:
    def refused(match: str, runs: list[Run], label: str = "operation", **changes: Any) -> None:
        with pytest.raises(UserError, match=match) as error:
            transfer(runs, label, "u@0", replace(OPTIONS, **changes), across_settings=True)
        assert "\n" not in str(error.value)

    refused(r"1 run given; expected at least two", [a])
    refused(r"a is given twice", [a, b, a])
    bare = replace(b, thoughts=b.thoughts.assign(labels="{}"))
    refused(r"--label 'operation': not in b", [a, bare])
    one = ['{"operation": "add"}'] * len(b.thoughts)
    single = replace(b, thoughts=b.thoughts.assign(labels=one))
    refused(
        r"b: --label 'operation' is binary \(add\), in a multiclass", [a, single], positive=None
    )
    refused(r"b: the label has a single class|b: class 'not add'", [a, single])
    wide = synthetic_run(folder / "wide", **MADE | {"n": 60, "D": 25})
    refused(r"wide: 25 values at --site u@0, a has 24", [a, wide])
    few = synthetic_run(folder / "few", **MADE | {"n": 9, "seed": 4})
    refused(r"few: 9 problem groups have this label", [a, few])


def test_bad_families_are_one_line(a: Run) -> None:
    for column, match in {
        "offset": "--leave-out offset: has a value per thought",
        "world": "--leave-out world: has 1 value at --site u@0 of a",
        "colour": "--label 'colour': not in a",
        "trace_id": "--label 'trace_id': not in a",
    }.items():
        with pytest.raises(UserError, match=match):
            families(a, "operation", "u@0", column, OPTIONS)
    rare = family_run(a)
    labels = list(rare.traces["labels"])
    labels[0] = canonical_json(json.loads(labels[0]) | {"family": "rare"})
    with pytest.raises(UserError, match="rare: 1 problem groups have this label"):
        families(
            replace(rare, traces=rare.traces.assign(labels=labels)), "operation", "u@0", "family"
        )


def pool(parts: list[list[int]], y_of: dict[int, int], kind: str = "binary") -> Pool:
    """One row per group and part."""
    groups = [g for part in parts for g in part]
    y = np.array([y_of[g] for g in groups])
    return Pool(
        [f"part{i}" for i in range(len(parts))],
        kind,
        ["no", "yes"],
        np.zeros((len(groups), 1)),
        y,
        np.array([f"g{g}" for g in groups], dtype=object),
        np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), shift=st.integers(0, 100))
def test_every_part_trains_and_tests_and_no_group_does_both(seed: int, shift: int) -> None:
    parts = [list(range(100)), list(range(shift, shift + 100)), list(range(500, 560))]
    three = pool(parts, {g: g % 2 for part in parts for g in part})
    split = split_parts(three, seed, 5)
    assert not (set(split.fold) & split.test | set(split.fold) & split.control)
    assert set(split.fold) | split.test | split.control == set(three.groups)
    for i in range(3):
        rows = split.rows(three.groups[three.part == i])
        assert set(rows.fold) == set(range(5))
        assert len(rows.test) >= 8
    alone = split_groups(three.y[-60:], three.groups[-60:], ["no", "yes"], seed, 5, True)
    assert alone.test <= split.test
    assert three.shared == max(0, 100 - shift)


def test_a_part_that_a_shared_split_leaves_too_little_is_named() -> None:
    parts = [list(range(100)), list(range(4))]
    with pytest.raises(UserError, match="part1: has too few problem groups beside those of the"):
        split_parts(pool(parts, {g: g % 2 for g in range(100)}), 0, 5)
    parts = [list(range(100)), list(range(0, 60, 2))]
    with pytest.raises(UserError, match=r"part1: class 'yes' of the label is in 0 of 5 folds"):
        split_parts(pool(parts, {g: g % 2 for g in range(100)}), 0, 5)
