"""Populations: rows, labels and groups of the same traces, and every trace accounted for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.features import read_space
from probes.population import Population, population
from probes.sites import parse_site, site_rows
from probes.tables import read_label_table
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return synthetic_run(folder / "run", n=60, steps=(0, 5), samples=2, activations=3)


def seen(run: Run, site: str, label: str, **options: Any) -> Population:
    return population(run, parse_site(site), label, **options)


@given(
    space=st.sampled_from(["u", "eps", "h@1", "h@-2"]),
    place=st.sampled_from(["0", "2", "-2", "step1", "mean", "max", "rollmax", "concat2", "all"]),
    gaps=st.lists(st.sampled_from([None, "a", "b"]), min_size=2, max_size=5),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_population_is_the_labelled_traces_of_the_place(
    run: Run, space: str, place: str, gaps: list[str | None]
) -> None:
    """Property: n and `out` add up to the run, and each row is its own trace's."""
    texts = [json.dumps({"kind": gaps[i % len(gaps)]}) for i in range(len(run.traces))]
    labelled = replace(run, traces=run.traces.assign(labels=texts))
    if set(gaps) == {None}:
        with pytest.raises(UserError, match=r"--label 'kind': no thought at --site .* has it"):
            seen(labelled, f"{space}@{place}", "kind")
        return
    found = seen(labelled, f"{space}@{place}", "kind")
    assert len(found.y) + sum(found.out.values()) == len(run.traces)
    assert found.out["no label 'kind'"] == sum(
        gaps[i % len(gaps)] is None for i in site_rows(run, found.site).trace
    )
    assert found.classes == sorted({g for g in gaps if g is not None})
    assert [found.classes[c] for c in found.y] == [gaps[i % len(gaps)] for i in found.trace]
    assert found.y.dtype == found.trace.dtype == found.row.dtype == np.int64
    assert found.groups.tolist() == run.traces["group"].iloc[found.trace].tolist()
    owners = run.thoughts["trace_id"].to_numpy()[found.row]
    assert owners.tolist() == run.traces["trace_id"].iloc[found.trace].tolist()
    assert found.X is not None
    assert len(found.X) == len(found.y)
    if place in ("0", "2", "-2", "step1"):
        np.testing.assert_array_equal(found.X, read_space(run, found.site)[found.row])


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        ("u@4", "no thought 4"),
        ("u@last", "no thought -1"),
        ("u@step2", "no step 2"),
        ("u@concat-3", "fewer than 3 thoughts"),
        ("u@mean", "no thought"),
    ],
)
def test_traces_without_the_place_are_counted_by_what_they_lack(
    run: Run, site: str, reason: str
) -> None:
    found = seen(run, site, "K")
    K = run.traces["K"]
    least = {"u@4": 5, "u@step2": 3, "u@concat-3": 3}.get(site, 1)
    assert found.out == {reason: int((least > K).sum()), "no label 'K'": 0}
    assert len(found.y) == int((least <= K).sum()) < len(K)


def test_a_space_is_read_once_for_several_places(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    values = read_space(run, parse_site("h@1@0"))
    expected = {p: seen(run, f"h@1@{p}", "K") for p in ("0", "-1", "mean", "concat2")}
    monkeypatch.setattr(Run, "shard_tensor", lambda *_: pytest.fail("the space was read again"))
    for place, whole in expected.items():
        found = seen(run, f"h@1@{place}", "K", values=values)
        np.testing.assert_array_equal(found.X, whole.X)
    labels_only = seen(run, "h@1@0", "K", values="none")
    assert labels_only.X is None
    np.testing.assert_array_equal(labels_only.y, expected["0"].y)


def test_features_are_single_precision_and_ragged_where_asked(run: Run) -> None:
    mean = seen(run, "u@mean", "K")
    assert isinstance(mean.X, np.ndarray)
    assert mean.X.dtype == np.float32
    ragged = seen(run, "u@all", "K")
    assert isinstance(ragged.X, list)
    assert [len(x) for x in ragged.X] == run.traces["K"].iloc[ragged.trace].tolist()
    assert ragged.X[0].dtype == np.float32


def test_numbers_stay_numbers_and_one_value_stands_against_the_rest(run: Run) -> None:
    numbers = seen(run, "u@0", "thought:energy")
    assert (numbers.kind, numbers.classes, numbers.y.dtype) == ("number", None, np.float64)
    np.testing.assert_array_equal(numbers.y, run.thoughts["energy"].to_numpy()[numbers.row])
    one = seen(run, "u@0", "operation", positive="add")
    assert (one.kind, one.classes, one.positive) == ("binary", ["not add", "add"], "add")
    assert seen(run, "u@0", "offset", positive="3").positive == 3
    many = seen(run, "u@0", "operation")
    assert many.classes is not None
    assert (one.y == 1).tolist() == (many.y == many.classes.index("add")).tolist()
    assert many.label_level == "step"


def test_traces_that_a_csv_leaves_out_are_counted(run: Run, tmp_path: Path) -> None:
    some = run.traces[["trace_id"]].iloc[10:50].assign(score=np.arange(40) / 7)
    some.to_csv(tmp_path / "mine.csv", index=False)
    table = read_label_table(tmp_path / "mine.csv", [run])
    found = seen(run, "u@0", "score", table=table)
    K = run.traces["K"]
    unlabelled = int((K > 0).sum() - (K.iloc[10:50] > 0).sum())
    assert found.out == {"no thought 0": int((K == 0).sum()), "no label 'score'": unlabelled}
    np.testing.assert_allclose(found.y, (found.trace - 10) / 7)


def test_a_table_in_any_order_gives_the_same_population(run: Run, tmp_path: Path) -> None:
    frame = run.traces[["trace_id"]].assign(score=np.arange(len(run.traces)) % 3)
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, rows in zip(paths, (frame, frame.sample(frac=1, random_state=0)), strict=True):
        pd.DataFrame(rows).to_csv(path, index=False)
    a, b = (seen(run, "u@0", "score", table=read_label_table(p, [run])) for p in paths)
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.trace, b.trace)
