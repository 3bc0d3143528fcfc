"""Every kind of reasoner through the same commands: trace, fsck, probes, audits, causal, pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import viz_app
from nfcot_model.cli import main
from nfcot_model.reasoners import KINDS, WITH_DENSITY, load_reasoner
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.retrofit.artifact import load_retrofit, save_retrofit
from nfcot_model.retrofit.fit import FitSettings, fit_retrofit
from nfcot_model.retrofit.scoring import score_into
from nfcot_model.sandbox import Sandbox
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world
from probes import drawing
from tests.tiny import brief_reasoner, tiny_baseline
from viz_app.server import RUNS_DIR_VARIABLE

APP = Path(viz_app.__file__).parent / "app.py"
THINKING = [kind for kind in KINDS if kind != "direct"]
RUNS = ("clean", "test")
N = 64


def told(line: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == code, line


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and two runs of each kind."""
    folder = tmp_path_factory.mktemp("every")
    drawn = make_world("digits", "test", 10, 2 * N, (3, 4))
    problems = dict(zip(RUNS, (drawn[::2], drawn[1::2]), strict=True))
    with Sandbox() as sandbox:
        for kind in KINDS:
            if kind in (*WITH_DENSITY, "regressed"):
                made = brief_reasoner(reasoner=kind)
                made = reasoner_over(made.model, made.tokenizer)
            else:
                made = tiny_baseline(kind, max_answer_tokens=4)
            made.save(folder / "models" / kind)
            reasoner = load_reasoner(folder / "models" / kind)
            for name in RUNS:
                collect(
                    reasoner,
                    problems[name],
                    folder / "runs" / f"{kind}-{name}",
                    activations="thoughts",
                    model_path=folder / "models" / kind,
                    sandbox=sandbox,
                )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_whole_and_says_who_thought_it(
    kind: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    told(f"run fsck {store}/runs/{kind}-test --json")
    assert json.loads(capsys.readouterr().out)["traces"] == N
    run = read_run(store / "runs" / f"{kind}-test")
    assert run.manifest["reasoner"] == kind
    if kind in WITH_DENSITY:
        assert run.traces["replay_error"].max() < 1e-3
    told(f"show {store}/runs/{kind}-test {run.traces['trace_id'].iloc[0]} --json")
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", THINKING)
def test_thoughts_are_probed(kind: str, store: Path, tmp_path: Path) -> None:
    site = "h@-1@0" if kind == "pause" else "u@0"
    told(
        f"probe fit {store}/runs/{kind}-test --label steps --site {site}"
        f" --draws 100 --permutations 9 --no-controls -o {tmp_path}/p"
    )
    told(f"probe apply {tmp_path}/p {store}/runs/{kind}-clean")


@pytest.mark.parametrize("kind", [k for k in THINKING if k not in WITH_DENSITY])
def test_without_a_density_a_retrofit_flow_is_audited(
    kind: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, test = (f"{store}/runs/{kind}-{name}" for name in RUNS)
    told(f"audit run {test} --calibration {clean} --alpha 0.2 -o {tmp_path}/a", 2)
    fit = fit_retrofit(read_run(clean), FitSettings(steps=20))
    save_retrofit(fit, read_run(clean), tmp_path / "flow")
    retrofit = load_retrofit(tmp_path / "flow")
    for name in RUNS:
        score_into(retrofit, read_run(store / "runs" / f"{kind}-{name}"), tmp_path / name)
    capsys.readouterr()
    scored = f"{tmp_path}/test --calibration {tmp_path}/clean --alpha 0.2"
    if kind == "pause":  # the same vectors in every run: nothing to compare
        told(f"audit run {scored} -o {tmp_path}/b --json", 2)
        assert "shares 1 of u_sha256" in capsys.readouterr().err
        return
    told(f"audit run {scored} -o {tmp_path}/b --json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["scorer"] == "retrofit"
    assert summary["n"] == N


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_a_density_of_its_own_is_audited(
    kind: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, test = (f"{store}/runs/{kind}-{name}" for name in RUNS)
    capsys.readouterr()
    told(f"audit run {test} --calibration {clean} --alpha 0.2 -o {tmp_path}/a --json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["n"] == N
    assert summary["scorer"] != "retrofit"


def no_browser(figures: object) -> None:
    raise RuntimeError("Kaleido requires Google Chrome to be installed.")


@pytest.mark.parametrize("kind", THINKING)
def test_thoughts_are_tested_causally(
    kind: str,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In all that has a meaning for the kind; what has none is left out, and refused when named."""
    monkeypatch.setattr(drawing, "_write_png", no_browser)
    capsys.readouterr()
    hooked = kind in (*WITH_DENSITY, "regressed")
    sites = " --sites blocks.1.hook_out --edits zero,donor" if hooked else ""
    asked = f"causal {store}/runs/{kind}-test --samples 4"
    told(f"{asked}{sites} -o {tmp_path}/c --json")
    summary = json.loads(capsys.readouterr().out)
    [task] = summary["tasks"]
    assert task["task"] == "digits"
    assert task["verdict"] == ("constant" if kind == "pause" else "undetermined")
    assert summary["reasoner"] == kind
    assert task["traces"] == 4
    page = (tmp_path / "c" / "causal.md").read_text()
    left = {part["part"] for part in summary["left_out"]}
    rows = pd.read_parquet(tmp_path / "c" / "single.parquet")
    assert not left & {*rows["edit"], *rows["mode"]}
    assert set(rows["edit"]) <= set(summary["plan"]["edits"])
    for part in left:
        assert part in page
    if kind in ("coconut", "codi"):
        steps = {"swap_same_value", "swap_different_value", "steer"} - left
        assert set(summary["plan"]["edits"]) == {"zero", "position_mean", "noise", "donor"} | steps
        assert bool(steps) == (kind == "coconut")
        assert set(rows["mode"]) == {"direct", "total"}
        assert (rows["K_after"] == rows.groupby("trace_id")["k"].transform("max") + 1).all()
    if kind not in WITH_DENSITY:
        told(f"{asked} --edits zero,noise_edit -o {tmp_path}/d", 2)
        err = capsys.readouterr().err
        assert f"--edits noise_edit: says nothing about the reasoner '{kind}': its thoughts" in err
        assert err.count("\n") == 1
    if not hooked:
        told(f"{asked} --sites blocks.1.hook_out -o {tmp_path}/d", 2)
        assert "--sites: says nothing" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_without_thoughts_there_is_nothing_to_test(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    told(f"causal {store}/runs/direct-test --samples 4 -o {tmp_path}/c", 2)
    err = capsys.readouterr().err
    assert "is of the reasoner 'direct', which has no thoughts to interfere with" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("page", ["map", "trace"])
def test_pages_show_it(page: str, kind: str, opened: Callable[[str, str], AppTest]) -> None:
    at = opened(page, f"{kind}-test")
    assert not at.exception
    assert not at.error


@pytest.mark.parametrize("page", ["runs", "audit"])
def test_pages_show_all_kinds_side_by_side(
    page: str, opened: Callable[[str, str], AppTest]
) -> None:
    at = opened(page, "dual-test")
    assert not at.exception
    assert not at.error
    if page == "runs":
        assert set(at.dataframe[0].value["reasoner"]) == set(KINDS)


@pytest.fixture
def opened(store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], AppTest]:
    def page_of(page: str, run: str) -> AppTest:
        monkeypatch.delenv(RUNS_DIR_VARIABLE, raising=False)
        at = AppTest.from_file(str(APP), default_timeout=120).run()
        monkeypatch.setenv(RUNS_DIR_VARIABLE, str(store / "runs"))
        at.query_params["run"] = run
        return at.switch_page(f"app_pages/{page}.py").run()

    return page_of
