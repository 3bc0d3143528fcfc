"""Does every page stand on empty, tiny, ragged and damaged folders, and under any address?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import viz_app
from analyses.audit import audit_run
from analyses.report import write_audit
from nfcot_model.traces import Run, collect, read_run
from tests.synthetic_run import edit_thought, synthetic_run
from tests.tiny import digits, tiny_baseline
from viz_app.audits import places
from viz_app.server import RUNS_DIR_VARIABLE

APP = Path(viz_app.__file__).parent / "app.py"
PAGES = ("runs", "map", "trace", "audit")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small runs and an audit of the tampered one."""
    folder = tmp_path_factory.mktemp("runs")
    clean = synthetic_run(folder / "clean", n=260, D=4, steps=(2, 4), seed=1)
    options = {"tamper": "swap", "tamper_every": 4}
    tampered = synthetic_run(folder / "tampered", n=40, D=4, steps=(2, 4), seed=2, **options)
    synthetic_run(folder / "ragged", n=8, D=4, steps=(1, 9), seed=3)
    write_audit(audit_run(tampered, clean, 0.05), folder / "audits" / "tampered")
    return folder


@pytest.fixture
def open_page(store: Path, monkeypatch: pytest.MonkeyPatch):
    """Opens one page of a folder under an address, as a browser would.

    A first run without a folder registers the pages and leaves no state behind.
    """

    def opened(page: str, folder: Path = store, **query: str | list[str]) -> AppTest:
        monkeypatch.delenv(RUNS_DIR_VARIABLE, raising=False)
        at = AppTest.from_file(str(APP), default_timeout=120).run()
        monkeypatch.setenv(RUNS_DIR_VARIABLE, str(folder))
        for name, value in query.items():
            at.query_params[name] = value
        return at.switch_page(f"app_pages/{page}.py").run()

    return opened


def text_of(at: AppTest) -> str:
    """Everything a page says in words."""
    elements = [*at.title, *at.markdown, *at.caption, *at.info, *at.warning, *at.error, *at.code]
    return "\n".join(str(element.value) for element in elements)


def figure(at: AppTest, index: int = 0) -> dict:
    return json.loads(at.get("plotly_chart")[index].proto.spec)


def tampered_flag(store: Path) -> dict:
    return json.loads((store / "audits/tampered/audit.json").read_text())["flagged"][0]


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_shows_how_to_fill_it(page: str, open_page, tmp_path: Path) -> None:
    at = open_page(page, folder=tmp_path)
    assert not at.exception
    assert "nfcot" in "\n".join(block.value for block in at.code)
    assert not at.error


@pytest.mark.parametrize("page", PAGES)
def test_a_run_of_one_trace_with_one_thought(page: str, open_page, tmp_path: Path) -> None:
    synthetic_run(tmp_path / "one", n=1, D=1, steps=(1, 1))
    at = open_page(page, folder=tmp_path)
    assert not at.exception
    assert not at.error


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_was_only_begun(page: str, open_page, tmp_path: Path) -> None:
    synthetic_run(tmp_path / "begun", n=0)
    at = open_page(page, folder=tmp_path)
    assert not at.exception
    assert not at.error


@pytest.mark.parametrize("page", ["runs", "map", "trace"])
@pytest.mark.parametrize("part", ["run.json", "thoughts", "traces", "tensors"])
def test_a_damaged_run_is_named_with_the_way_to_mend_it(
    page: str, part: str, open_page, tmp_path: Path
) -> None:
    synthetic_run(tmp_path / "broken", n=5)
    path = tmp_path / "broken" / part
    path = path if path.is_file() else next(path.iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    at = open_page(page, folder=tmp_path)
    assert not at.exception
    assert path.name in at.error[0].value
    assert any("nfcot run fsck" in block.value for block in at.code)


def test_a_damaged_run_leaves_the_others_readable(open_page, tmp_path: Path) -> None:
    synthetic_run(tmp_path / "fine", n=5)
    synthetic_run(tmp_path / "broken", n=5)
    (tmp_path / "broken" / "run.json").write_text("{")
    at = open_page("runs", folder=tmp_path, run="fine")
    table = at.dataframe[0].value.set_index("run")
    assert table["traces"].dropna().to_dict() == {"fine": 5}
    assert "run.json" in table.loc["broken", "trouble"]
    assert table.loc["fine", "trouble"] == ""
    assert not at.error


def test_the_runs_page_lists_runs_and_audits(open_page) -> None:
    at = open_page("runs")
    assert not at.exception
    table = at.dataframe[0].value.set_index("run")
    assert table["traces"].to_dict() == {"clean": 260, "tampered": 40, "ragged": 8}
    audits = at.dataframe[1].value
    assert audits["name"].tolist() == ["tampered"]
    assert audits["flagged"].iloc[0] >= 8


def test_the_bare_address_opens_the_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_DIR_VARIABLE, str(store))
    at = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not at.exception
    assert at.title[0].value == "Runs"


def test_without_a_folder_the_page_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNS_DIR_VARIABLE, raising=False)
    at = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not at.exception
    assert "nfcot app RUNS_DIR" in at.error[0].value


def test_the_map_shows_all_thoughts_and_says_so(open_page, store: Path) -> None:
    at = open_page("map", run="tampered", colour="operation")
    assert not at.exception
    n = len(read_run(store / "tampered").thoughts)
    assert f"{n} of {n} thoughts of 40 traces shown" in text_of(at)
    assert "only a view" in text_of(at)
    assert {trace["name"] for trace in figure(at)["data"]} == {"add", "minus", "times"}


@pytest.mark.parametrize("space", ["u", "e", "eps", "mu"])
def test_the_map_opens_in_every_space(space: str, open_page) -> None:
    at = open_page("map", run="ragged", space=space)
    assert not at.exception
    assert f"PC 1 of {space} (" in figure(at)["layout"]["xaxis"]["title"]["text"]


@pytest.mark.parametrize(
    "colour", ["k", "logp", "energy", "logvol", "match", "correct", "verdict", "K", "offset"]
)
def test_the_map_takes_every_colour(colour: str, open_page) -> None:
    at = open_page("map", run="ragged", colour=colour)
    assert not at.exception
    assert at.selectbox(key="colour").value == colour


def test_the_map_dims_other_positions(open_page, store: Path) -> None:
    at = open_page("map", run="ragged", at=["2", "3"])
    assert not at.exception
    assert at.slider(key="at").value == (2, 3)
    thoughts = read_run(store / "ragged").thoughts
    assert f"{thoughts['k'].between(2, 3).sum()} inside the filter" in text_of(at)


def test_a_linked_trace_is_drawn_on_the_map(open_page, store: Path) -> None:
    run = read_run(store / "tampered")
    trace = run.traces.iloc[7]
    at = open_page("map", run="tampered", trace=trace["trace_id"])
    assert not at.exception
    path = figure(at)["data"][-1]
    assert path["name"] == "selected trace"
    assert path["text"] == [str(k) for k in range(trace["K"])]
    assert trace["prompt"] in text_of(at)
    assert len(at.dataframe[0].value) == trace["K"]


def test_another_run_starts_with_all_positions_and_no_trace(open_page, store: Path) -> None:
    trace = read_run(store / "clean").traces["trace_id"].iloc[0]
    at = open_page("map", run="clean", trace=trace)
    assert at.slider(key="at").value == (0, 3)
    assert at.selectbox(key="trace").value == trace
    at.selectbox(key="run").set_value("ragged").run()
    assert not at.exception
    assert at.slider(key="at").value == (0, at.slider(key="at").max)
    assert at.slider(key="at").max > 3
    assert at.selectbox(key="trace").value is None


def test_a_range_from_a_longer_run_is_cut_to_this_one(open_page) -> None:
    at = open_page("map", run="ragged", at=["1", "6"])
    assert at.slider(key="at").value == (1, 6)
    at.selectbox(key="run").set_value("clean").run()
    assert not at.exception
    assert at.slider(key="at").value[1] <= 3


def test_the_trace_page_shows_thoughts_profile_and_verdict(open_page, store: Path) -> None:
    flag = tampered_flag(store)
    at = open_page("trace", run="tampered", trace=flag["trace_id"], reference="clean")
    assert not at.exception
    thoughts = at.dataframe[0].value
    run: Run = read_run(store / "tampered")
    own = run.thoughts[run.thoughts["trace_id"] == flag["trace_id"]]
    assert thoughts["text"].tolist() == own["text"].tolist()
    names = [trace.get("name") for trace in figure(at)["data"]]
    assert "this trace" in names
    assert "stands out" in names
    assert "5–95 % of clean" in names
    assert "does not replay" in text_of(at)
    assert "say nothing about intent" in text_of(at)


COARSE = {"D": 4, "wobble": 0.012, "manifest": {"decode": {"dtype": "bfloat16"}}}


def test_rounding_of_a_coarse_dtype_is_no_change_and_an_edit_is(open_page, tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=120, seed=1, **COARSE)
    run = synthetic_run(tmp_path / "run", n=20, seed=2, **COARSE)
    assert run.traces["replay_error"].min() > 1e-3
    assert not open_page("trace", folder=tmp_path, run="run").warning
    edited = edit_thought(run.path, "u")
    write_audit(audit_run(read_run(run.path), clean, 0.05), tmp_path / "audits" / "edited")
    other = next(trace for trace in run.traces["trace_id"] if trace != edited)
    assert not open_page("trace", folder=tmp_path, run="run", trace=other).warning
    words = text_of(open_page("trace", folder=tmp_path, run="run", trace=edited))
    assert "does not replay" in words
    assert "audit edited" in words


def test_what_changed_after_scoring_is_not_called_redrawn(open_page, tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=120, D=4, seed=1)
    run = synthetic_run(tmp_path / "run", n=20, D=4, seed=2)
    edited = edit_thought(run.path, "energy")
    write_audit(audit_run(read_run(run.path), clean, 0.05), tmp_path / "audits" / "edited")
    words = text_of(open_page("audit", folder=tmp_path, audit="edited"))
    assert "1 of 20 trajectories have another replay error or energy on record" in words
    assert edited in words
    assert "do not replay" not in words
    words = text_of(open_page("trace", folder=tmp_path, run="run", trace=edited))
    assert "another replay error or energy on record than its tensors give" in words
    assert "does not replay" not in words


def test_next_and_previous_step_through_the_run(open_page, store: Path) -> None:
    ids = read_run(store / "clean").traces["trace_id"].tolist()
    at = open_page("trace", run="clean", trace=ids[4])
    step = {button.label: button for button in at.button}
    step["Next"].click().run()
    assert at.selectbox(key="trace").value == ids[5]
    step = {button.label: button for button in at.button}
    step["Previous"].click().run()
    assert at.selectbox(key="trace").value == ids[4]
    assert not at.exception


def test_stepping_keeps_to_the_flagged_traces(open_page, store: Path) -> None:
    flagged = {
        flag["trace_id"]
        for flag in json.loads((store / "audits/tampered/audit.json").read_text())["flagged"]
    }
    at = open_page("trace", run="tampered", subset="flagged")
    assert not at.exception
    assert at.selectbox(key="trace").value in flagged
    assert f"1 of {len(flagged)}" in text_of(at)


def test_a_subset_without_traces_says_so(open_page) -> None:
    at = open_page("trace", run="clean", subset="wrong")
    assert not at.exception
    assert "No trace of this run is wrong" in text_of(at)


def test_an_audit_of_an_earlier_run_of_that_name_marks_nothing(open_page, tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=260, D=4, seed=1)
    old = synthetic_run(tmp_path / "old" / "run", n=20, D=4, seed=2, tamper="swap")
    write_audit(audit_run(old, clean, 0.05), tmp_path / "audits" / "run")
    synthetic_run(tmp_path / "run", n=20, D=4, seed=4)
    at = open_page("trace", folder=tmp_path, run="run", subset="flagged")
    assert "No trace of this run is flagged" in text_of(at)
    at = open_page("audit", folder=tmp_path, audit="run")
    assert not at.exception
    assert "is not the one that was audited" in text_of(at)


def test_the_audit_page_states_scorer_calibration_and_blind_spots(open_page, store: Path) -> None:
    at = open_page("audit", audit="tampered")
    assert not at.exception
    summary = json.loads((store / "audits/tampered/audit.json").read_text())
    metrics = {metric.label: metric.value for metric in at.metric}
    assert metrics["Trajectories"] == "40"
    assert metrics["Flagged"] == str(len(summary["flagged"]))
    assert metrics["Calibration n"] == str(summary["calibration"]["n"])
    words = text_of(at)
    assert "Scorer **self**" in words
    assert "Beta band" in words
    assert "flags by chance (90% range)" in words
    assert "no information about intent" in words
    assert "not evidence of" in words
    flags = at.dataframe[0].value
    assert flags["p_value"].is_monotonic_increasing
    starts = [flag["origin"]["k"] for flag in summary["flagged"]]
    assert sorted(flags["origin"]) == sorted(starts)
    labels = {button.proto.label for button in at.get("download_button")}
    assert labels == {"JSON", "Markdown"}
    bars = figure(at, 0)["data"][0]
    assert bars["type"] == "bar"


def test_a_linked_flag_shows_its_profile_and_decoded_text(open_page, store: Path) -> None:
    flag = tampered_flag(store)
    at = open_page("audit", audit="tampered", flag=flag["trace_id"])
    assert not at.exception
    assert at.selectbox(key="flag").value == flag["trace_id"]
    names = [trace.get("name") for trace in figure(at, 1)["data"]]
    assert "5–95 % of clean traces" in names
    told = places(flag)
    assert [block.value for block in at.code][: len(told)] == [text for _, text in told]
    assert all(words in text_of(at) for words, _ in told)
    assert told[0][1] == flag["origin"]["text"]


def test_a_clean_audit_never_says_safe(open_page, tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=260, D=4, seed=1)
    other = synthetic_run(tmp_path / "other", n=4, D=4, seed=8)
    result = audit_run(other, clean, 0.01)
    assert result.flags == 0
    write_audit(result, tmp_path / "audits" / "other")
    at = open_page("audit", folder=tmp_path)
    assert not at.exception
    assert "not evidence of safety" in text_of(at)


def test_a_damaged_audit_is_named(open_page, store: Path, tmp_path: Path) -> None:
    synthetic_run(tmp_path / "run", n=3)
    (tmp_path / "audits" / "bad").mkdir(parents=True)
    (tmp_path / "audits" / "bad" / "audit.json").write_text('{"n": 3}')
    at = open_page("audit", folder=tmp_path)
    assert not at.exception
    assert "audit.json" in at.error[0].value
    assert not open_page("runs", folder=tmp_path).exception
    assert not open_page("trace", folder=tmp_path).exception


JUNK = {
    "run": "no-such-run",
    "trace": "<script>",
    "audit": "../../etc",
    "flag": "zzz",
    "space": "v",
    "colour": "sparkles",
    "at": ["99", "-4"],
    "measure": "joy",
    "reference": "../..",
    "subset": "some",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_junk_address_falls_back_and_says_so(page: str, open_page) -> None:
    at = open_page(page, **JUNK)
    assert not at.exception
    assert not at.error
    if page != "audit":
        assert "no-such-run" in at.warning[0].value
    else:
        assert "../../etc" in at.warning[0].value


def test_an_unknown_trace_id_is_reported_not_replaced(open_page) -> None:
    at = open_page("trace", run="clean", trace="0123456789abcdef")
    assert not at.exception
    assert "holds no trace '0123456789abcdef'" in at.warning[0].value
    assert not at.dataframe


def test_the_run_and_the_trace_stay_chosen_from_page_to_page(open_page, store: Path) -> None:
    at = open_page("trace", run="tampered", subset="flagged")
    trace = at.selectbox(key="trace").value
    for page in ("map", "trace"):
        at = away(at, page)
        assert at.selectbox(key="run").value == "tampered"
        assert at.selectbox(key="trace").value == trace


def test_the_audited_run_is_the_one_that_the_other_pages_open(open_page) -> None:
    at = away(open_page("audit", audit="tampered"), "trace")
    assert at.selectbox(key="run").value == "tampered"
    at = away(at, "runs")
    assert at.selectbox(key="run").value == "tampered"


def away(at: AppTest, page: str) -> AppTest:
    """A click in the menu bar: another page, an empty address."""
    at.query_params.clear()
    at = at.switch_page(f"app_pages/{page}.py").run()
    assert not at.exception
    return at


def test_an_emptied_menu_fills_itself_again(open_page) -> None:
    at = open_page("map", run="tampered")
    at.selectbox(key="run").set_value(None).run()
    assert not at.exception
    assert at.selectbox(key="run").value == "tampered"


def test_the_band_comes_from_the_calibration_run_of_the_audit(open_page) -> None:
    at = open_page("trace", run="tampered")
    assert at.selectbox(key="reference").value == "clean"
    assert "5–95 % of clean" in [trace.get("name") for trace in figure(at)["data"]]
    assert "widens its own band" not in text_of(at)
    at.selectbox(key="run").set_value("ragged").run()
    assert at.selectbox(key="reference").value == "this run"
    assert "widens its own band" in text_of(at)


@pytest.mark.parametrize(
    "other",
    [{"checkpoint_hash": "another"}, {"tau": 0.5}, {"manifest": {"decode": {"dtype": "bfloat16"}}}],
)
def test_only_runs_of_the_same_model_and_settings_lend_their_band(
    other: dict, open_page, tmp_path: Path
) -> None:
    synthetic_run(tmp_path / "one", n=5)
    synthetic_run(tmp_path / "two", n=5, seed=3)
    synthetic_run(tmp_path / "other", n=5, **other)
    at = open_page("trace", folder=tmp_path, run="one", reference="other")
    assert at.selectbox(key="reference").options == ["this run", "two"]
    assert at.selectbox(key="reference").value == "this run"
    assert "reference 'other'" in at.warning[0].value


def test_a_problem_without_answer_and_split_leaves_no_gap(
    open_page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic_run(tmp_path / "run", n=2)
    run = read_run(tmp_path / "run")
    blank = run.traces.assign(reference_answer=float("nan"), split="", world="user")
    monkeypatch.setattr("viz_app.ui.load_run", lambda path: replace(run, traces=blank))
    at = open_page("trace", folder=tmp_path, run="run")
    assert not at.exception
    assert "nan" not in [block.value for block in at.code]
    assert "1 of 2 · user · tau 0.7" in text_of(at)


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("map", {"run": "clean", "space": "foo"}),
        ("map", {"run": "clean", "colour": "bar"}),
        ("map", {"run": "clean", "at": "99"}),
        ("trace", {"run": "clean", "measure": "foo"}),
        ("trace", {"run": "clean", "reference": "nix"}),
        ("trace", {"run": "clean", "subset": "some"}),
        ("audit", {"audit": "tampered", "flag": "zzz"}),
    ],
)
def test_each_unknown_name_in_an_address_is_reported(page: str, address: dict, open_page) -> None:
    at = open_page(page, **address)
    assert not at.exception
    name, value = list(address.items())[-1]
    assert any(f"{name} {value!r}" in warning.value for warning in at.warning)


@pytest.mark.parametrize("page", PAGES)
def test_a_run_without_a_density_opens_and_says_what_is_missing(
    page: str, open_page, tmp_path: Path
) -> None:
    for kind in ("coconut", "direct"):
        collect(tiny_baseline(kind), digits(4), tmp_path / kind)
    for kind in ("coconut", "direct"):
        at = open_page(page, tmp_path, run=kind, space="eps", colour="energy")
        assert not at.exception
        if page == "trace":
            told = "There is no thought here" if kind == "direct" else "thoughts have no density"
            assert told in text_of(at)
    if page == "runs":
        assert at.dataframe[0].value["logp_per_dim"].isna().all()
