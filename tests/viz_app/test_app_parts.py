"""Do the dashboard's pure parts say what they promise: sampling, projection, bands, figures?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.findings import origin_of
from nfcot_model.errors import UserError
from tests.synthetic_run import synthetic_run
from viz_app import charts, cloud, data
from viz_app.audits import flag_table, places, read_audit
from viz_app.bands import reference_band
from viz_app.catalog import artifact_row, run_line, stamp, thought_column
from viz_app.projection import project, stratified_sample
from viz_app.selection import clamp_range, clicked_row, nearby, neighbour, selected_rows


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=400),
    st.integers(7, 120),
    st.integers(0, 3),
)
def test_a_stratified_sample_keeps_every_stratum_and_its_share(
    strata: list[int], cap: int, seed: int
) -> None:
    values = pd.Series(strata)
    rows = stratified_sample(values, cap, seed)
    assert len(rows) == min(cap, len(values)) == len(set(rows))
    assert np.array_equal(rows, stratified_sample(values, cap, seed))
    assert set(values.iloc[rows]) == set(values)
    share = cap / len(values)
    if share < 1:
        taken, whole = values.iloc[rows].value_counts(), values.value_counts()
        assert all(taken[name] <= whole[name] * share + values.nunique() for name in whole.index)


def test_the_sample_depends_on_its_seed() -> None:
    strata = pd.Series(np.zeros(500))
    assert not np.array_equal(stratified_sample(strata, 50, 0), stratified_sample(strata, 50, 1))


def test_the_sample_is_stratified_by_verdict_and_not_by_a_label_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = synthetic_run(tmp_path / "run", n=4, steps=(2, 2), labels={"correct": "maybe"})
    seen: list[pd.Series] = []
    monkeypatch.setattr(data, "stratified_sample", seen.append)
    data.sample(run.path)
    assert set(seen[0]) == {"0/True", "1/True"}


def test_the_projection_is_the_plane_of_largest_variance() -> None:
    rng = np.random.default_rng(0)
    space = rng.normal(size=(500, 6)) * [0.1, 5.0, 0.1, 2.0, 0.1, 0.1]
    view = project(space)
    assert abs(np.corrcoef(view.xy[:, 0], space[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(view.xy[:, 1], space[:, 3])[0, 1]) > 0.99
    assert view.explained[0] == pytest.approx(25 / 29, abs=0.03)
    assert 0.99 < sum(view.explained) <= 1


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 4), (5, 1)])
def test_the_projection_of_hardly_anything_is_still_a_plane(shape: tuple[int, int]) -> None:
    view = project(np.arange(np.prod(shape), dtype=float).reshape(shape))
    assert view.xy.shape == (shape[0], 2)
    assert np.isfinite(view.xy).all()
    assert not view.xy[:, 1].any()


def test_rows_that_are_not_finite_do_not_move_the_plane() -> None:
    space = np.random.default_rng(1).normal(size=(50, 3))
    broken = np.vstack([space, [[np.nan, 0, 0]]])
    assert np.allclose(project(broken).xy[:-1], project(space).xy)
    assert np.isnan(project(broken).xy[-1]).all()


def test_the_band_holds_the_quantiles_of_each_position() -> None:
    thoughts = pd.DataFrame({"k": [0] * 101 + [1] * 11, "energy": [*range(101), *range(11)]})
    band = reference_band(thoughts, "energy")
    assert band.loc[0, ["q01", "q05", "q50", "q95", "q99"]].tolist() == [1, 5, 50, 95, 99]
    assert band.loc[1, "q50"] == 5
    assert band["n"].tolist() == [101, 11]


@pytest.mark.parametrize(
    ("event", "row"),
    [
        (None, None),
        ({}, None),
        ({"selection": {"points": []}}, None),
        ({"selection": {"points": [{"customdata": {"0": 7, "1": 2}}]}}, 7),
        ({"selection": {"points": [{"x": 1}, {"customdata": [3, 0]}]}}, 3),
    ],
)
def test_a_click_names_the_row_its_point_carries(event: dict, row: int | None) -> None:
    assert clicked_row(event) == row


def test_stepping_stops_at_both_ends() -> None:
    ids = ["a", "b", "c"]
    assert [neighbour(ids, x, 1) for x in ["a", "b", "c", "?", None]] == ["b", "c", "c", "a", "a"]
    assert neighbour(ids, "a", -1) == "a"
    assert neighbour([], "a", 1) is None


def test_a_long_menu_offers_the_ids_around_the_current_one() -> None:
    ids = [str(i) for i in range(100)]
    assert nearby(ids, "50", 10) == [str(i) for i in range(45, 55)]
    assert nearby(ids, "99", 10)[-1] == "99"
    assert nearby(ids, None, 10) == ids[:10]
    assert nearby(ids[:5], "3", 10) == ids[:5]


@pytest.mark.parametrize(
    ("asked", "range_"),
    [((1, 3), (1, 3)), ((3, 1), (1, 3)), ((2, 99), (2, 4)), ((9, 12), (0, 4)), ("x", (0, 4))],
)
def test_a_range_of_positions_stays_inside_the_run(asked: object, range_: tuple[int, int]) -> None:
    assert clamp_range(asked, 4) == range_


def test_selected_rows_of_a_table() -> None:
    assert selected_rows({"selection": {"rows": [2]}}) == [2]
    assert selected_rows(None) == []


def test_names_beyond_the_palette_become_other() -> None:
    values = pd.Series([name for i, name in enumerate("abcdefghijkl") for _ in range(20 - i)])
    categories = cloud.as_categories(values)
    assert categories is not None
    assert categories.nunique() == len(cloud.CATEGORIES)
    assert (categories == cloud.OTHER).sum() == sum(20 - i for i in range(7, 12))
    assert cloud.as_categories(pd.Series([1, 2, 3])) is None
    mixed = cloud.as_categories(pd.Series([True, False, None], dtype="boolean"))
    assert mixed is not None
    assert mixed.tolist() == ["yes", "no", "unknown"]


def points(n: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "x": np.arange(n, dtype=float),
            "y": np.zeros(n),
            "value": ["add", "times"] * (n // 2),
            "k": np.arange(n) % 3,
            "text": [f"thought {i}" for i in range(n)],
            "row": np.arange(n) + 100,
        }
    )


def test_the_map_shows_every_point_once_and_dims_those_outside_the_filter() -> None:
    thoughts = points()
    figure = cloud.thought_map(thoughts, "operation", (thoughts["k"] < 2).to_numpy())
    names = {trace.name: len(trace.x) for trace in figure.data}
    assert names == {"outside the filter": 2, "add": 2, "times": 2}
    rows = sorted(int(row) for trace in figure.data for row, _ in trace.customdata)
    assert rows == thoughts["row"].tolist()


def test_the_map_draws_the_chosen_trace_in_order_over_a_dimmed_cloud() -> None:
    thoughts = points()
    path = thoughts.iloc[[0, 1, 2]]
    figure = cloud.thought_map(thoughts, "operation", np.ones(6, dtype=bool), path)
    line = figure.data[-1]
    assert list(line.x) == [0, 1, 2]
    assert list(line.text) == ["0", "1", "2"]
    assert figure.data[0].marker.opacity < 0.5


def test_a_numeric_colour_has_a_titled_scale_with_whole_ticks() -> None:
    thoughts = points().assign(value=[0, 1, 2, 3, 4, 5])
    (trace,) = cloud.thought_map(thoughts, "offset", np.ones(6, dtype=bool)).data
    assert trace.marker.colorbar.title.text == "offset"
    assert list(trace.marker.colorbar.ticktext) == ["0", "1", "2", "3", "4", "5"]


def test_thoughts_without_the_number_are_dimmed_and_said_to_be_without() -> None:
    thoughts = points().assign(value=[0, None, 2, 3, None, 5])
    without, known = cloud.thought_map(thoughts, "offset", np.ones(6, dtype=bool)).data
    assert (without.name, len(without.x)) == ("no offset", 2)
    assert without.marker.color == cloud.DIM
    assert len(known.x) == 4


def band(k: int) -> pd.DataFrame:
    row = {"q01": 0.5, "q05": 1.0, "q50": 3.0, "q95": 8.0, "q99": 10.0, "n": 500}
    return pd.DataFrame([row] * k, index=pd.RangeIndex(k, name="k"))


def test_the_profile_rings_what_stands_out_and_keeps_the_band_readable() -> None:
    values = pd.DataFrame({"k": [0, 1, 2], "energy": [3.0, 900.0, 4.0], "text": ["a", "b", "c"]})
    figure = charts.profile(values, band(3), "energy", "energy", "of clean", [1])
    ring = figure.data[-1]
    assert (ring.name, list(ring.x)) == ("stands out", [1])
    assert figure.layout.yaxis.type == "log"
    calm = charts.profile(values.assign(energy=4.0), band(3), "energy", "energy", "of clean")
    assert calm.layout.yaxis.type is None
    assert "stands out" not in {trace.name for trace in calm.data}


@pytest.mark.parametrize(("measure", "edges"), [("energy", {"99 %", "1 %"}), ("logp", {"1 %"})])
def test_the_profile_draws_the_edges_on_the_unusual_side(measure: str, edges: set[str]) -> None:
    values = pd.DataFrame({"k": [0], measure: [3.0], "text": ["a"]})
    figure = charts.profile(values, band(1), measure, measure, "of clean", [0], "largest")
    names = {trace.name for trace in figure.data}
    assert names & {"99 %", "1 %"} == edges
    assert "largest" in names


def test_numbers_over_many_decades_are_coloured_by_their_logarithm() -> None:
    thoughts = points().assign(value=[1.0, 2.0, 3.0, 4.0, 5.0, 1000.0])
    every = np.ones(6, dtype=bool)
    (trace,) = cloud.thought_map(thoughts, "energy", every, title="energy (no unit)").data
    assert trace.marker.colorbar.title.text == "energy (no unit), log scale"
    assert list(trace.marker.colorbar.ticktext) == ["1", "10", "100", "1000"]
    assert max(trace.marker.color) == pytest.approx(3)


def test_names_have_a_titled_legend_and_missing_ones_are_grey() -> None:
    thoughts = points().assign(value=["add", "times", None] * 2)
    figure = cloud.thought_map(thoughts, "operation", np.ones(6, dtype=bool))
    assert figure.layout.legend.title.text == "operation"
    assert figure.data[-1].name == "no operation"
    assert figure.data[-1].marker.color == cloud.DIM


def test_a_profile_without_a_reference_shows_the_trace_alone() -> None:
    values = pd.DataFrame({"k": [0], "energy": [3.0], "text": ["a"]})
    figure = charts.profile(values, band(0), "energy", "energy", "of nothing")
    assert [trace.name for trace in figure.data] == ["this trace"]


def test_the_histogram_counts_every_p_value_against_the_uniform_line() -> None:
    figure = charts.p_value_histogram([0.01, 0.02, 0.5, 1.0, float("nan")], 0.05, bins=4)
    bars, uniform, alpha = figure.data
    assert list(bars.y) == [2, 0, 1, 1]
    assert set(uniform.y) == {1.0}
    assert set(alpha.x) == {0.05}


def test_a_run_in_one_line(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=30, D=4, steps=(2, 3))
    line = run_line(run)
    assert (line.run, line.traces, line.thoughts) == ("run", 30, len(run.thoughts))
    assert line.pass_rate == 1.0
    total = run.traces["logp_u"].sum() / (run.traces["K"].sum() * 4)
    assert line.logp_per_dim == pytest.approx(total, rel=1e-5)


def test_labels_reach_every_thought_and_problem_labels_go_before_columns(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=10, steps=(1, 4))
    offsets = [json.loads(text)["offset"] for text in run.thoughts["labels"]]
    assert thought_column(run, "offset").tolist() == offsets
    lengths = run.thoughts.groupby("trace_id")["k"].transform("size")
    assert thought_column(run, "steps").tolist() == lengths.tolist()
    with pytest.raises(UserError, match="no measure or label named 'colour'"):
        thought_column(run, "colour")


def test_a_changed_folder_has_another_stamp(tmp_path: Path) -> None:
    assert stamp(tmp_path / "missing") == ""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    before = stamp(tmp_path)
    assert before == stamp(tmp_path)
    (tmp_path / "sub" / "b").write_text("1")
    assert stamp(tmp_path) != before


@pytest.mark.parametrize("content", ["{", "[1]", "nonsense", "[" * 100_000, '{"n": "\\ud800"}'])
def test_a_broken_artefact_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"audit\.json"):
        read_audit(path)


def test_no_module_hides_one_of_the_standard_library() -> None:
    """Streamlit puts the folder of the entry script on the import path."""
    modules = {path.stem for path in Path(charts.__file__).parent.glob("*.py")}
    assert not modules & sys.stdlib_module_names


def audit_json(folder: Path, **changes: object) -> Path:
    summary = {
        "scorer": "self",
        "statistic": "two_sided_energy",
        "alpha": 0.01,
        "n": 9,
        "flagged": [
            {"trace_id": "b", "p_value": 0.01, "adjusted_p": 0.1, "thoughts": [], "score": 3.0},
            {
                "trace_id": "a",
                "p_value": 0.001,
                "adjusted_p": 0.01,
                "thoughts": [1, 2],
                "origin": {"k": 1, "z": 4.0, "text": "4x+7"},
                "stands_out": {"k": 2, "z": 5.0, "text": "8x+9"},
                "score": 9.0,
            },
        ],
        "invalid": [],
        "calibration": {"n": 500, "band": [0.004, 0.017]},
    } | changes
    folder.mkdir(parents=True)
    path = folder / "audit.json"
    path.write_text(json.dumps({k: v for k, v in summary.items() if v is not None}))
    return path


def test_artefacts_in_one_line_each() -> None:
    audit = {"scorer": "self", "alpha": 0.01, "n": 9, "flagged": [{}, {}], "run": {"name": "r"}}
    assert artifact_row("audits", audit)["flagged"] == 2
    assert artifact_row("audits", audit)["run"] == "r"
    probe = {
        "site": "u@3",
        "label": "offset",
        "run": "r",
        "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}},
        "controls": [{"name": "shuffled_labels", "metrics": {"accuracy": {"value": 0.1}}}],
    }
    row = artifact_row("probes", probe)
    assert (row["accuracy"], row["interval"], row["shuffled"]) == (0.9, "80–95 %", 0.1)
    assert artifact_row("probes", {})["accuracy"] is None


def test_flags_are_sorted_by_p_and_name_their_thoughts(tmp_path: Path) -> None:
    audit = read_audit(audit_json(tmp_path / "one"))
    table = flag_table(audit)
    assert table["trace_id"].tolist() == ["a", "b"]
    shown = ["origin", "text", "stands_out", "z", "thoughts"]
    assert table.loc[0, shown].tolist() == [1, "4x+7", 2, 5.0, "1, 2"]
    assert table.loc[1, ["origin", "stands_out"]].isna().all()
    assert audit.thoughts_of("a") == [1, 2]
    assert audit.thoughts_of("b") == []
    assert audit.p_values is None
    assert audit.band().empty


def test_where_a_flag_starts_is_told_before_its_loudest() -> None:
    loud = {"k": 2, "z": 5.0, "text": "8x+9"}
    flag = {"thoughts": [1, 2], "origin": {"k": 1, "z": 4.0, "text": "4x+7"}, "stands_out": loud}
    assert places(flag) == [
        ("It starts at **k = 1**, z = +4.00", "4x+7"),
        ("It is loudest at **k = 2**, z = +5.00", "8x+9"),
    ]
    assert places(flag | {"origin": loud, "thoughts": [2]}) == [
        ("It starts at, and is loudest at, **k = 2**, z = +5.00", "8x+9")
    ]
    [(words, text)] = places(flag | {"origin": loud, "thoughts": []})
    assert words == "No thought is beyond alpha by itself; the loudest is **k = 2**, z = +5.00"
    assert text == "8x+9"
    assert places({"thoughts": [], "origin": None, "stands_out": None}) == []


def test_audits_of_earlier_versions_say_where_a_flag_starts_too() -> None:
    """Theirs have no `origin`: it is the first thought beyond alpha, or the loudest."""
    old = {"thoughts": [1, 2], "stands_out": {"k": 2, "z": 5.0, "text": "8x+9"}}
    assert origin_of(old | {"texts": ["x", "4x+7", "8x+9"]}) == {"k": 1, "text": "4x+7"}
    assert [text for _, text in places(old)] == ["(not decoded)", "8x+9"]
    assert origin_of(old | {"thoughts": []}) == old["stands_out"]


def test_an_audit_without_a_needed_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field scorer"):
        read_audit(audit_json(tmp_path / "one", scorer=None))


def test_an_unreadable_table_of_p_values_is_named(tmp_path: Path) -> None:
    path = audit_json(tmp_path / "one")
    (path.parent / "trajectories.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"trajectories\.parquet"):
        read_audit(path)
