"""Explicit reasoning scored as thoughts: what the model would not have thought stands out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.encoded import AskedText, encoded_densities, own_texts
from analyses.encoded_study import TextPlan, encoded_study
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import make_world
from tests.analyses.runs import brief_run, nan_thought


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner]:
    reasoner = load_reasoner("demo")
    folder = tmp_path_factory.mktemp("encoded") / "run"
    collect(reasoner, make_world("digits", "test", 7, 6, (3, 4)), folder, model_path="demo")
    return read_run(folder), reasoner


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner]:
    return brief_run(tmp_path_factory.mktemp("encoded-brief"))


def test_densities_are_those_of_the_encoded_thoughts(demo: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = demo
    prompts, steps = run.traces["prompt"].tolist(), run.traces["steps"].tolist()
    found = encoded_densities(reasoner, prompts, steps, 0.7)
    thoughts = reasoner.encode(steps)
    scores = reasoner.score(prompts, thoughts, tau=0.7)
    torch.testing.assert_close(found.logp_u, scores.logp)
    torch.testing.assert_close(found.stop_logp, scores.stop_logp)
    logdet = reasoner.decode(thoughts).logdet
    torch.testing.assert_close(found.logdet.sum(-1), logdet, atol=1e-3, rtol=1e-3)


def test_a_changed_step_is_found_and_a_true_reasoning_is_not(
    demo: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = demo
    texts = []
    for trace_id, steps in zip(run.traces["trace_id"], run.traces["steps"], strict=True):
        texts.append(AskedText(steps=steps, name="true", trace_id=trace_id))
        coefficient = int(steps[1][3])
        told = f"#2 {(coefficient + 1) % 10}{steps[1][4:]}"
        changed = [steps[0], told, *steps[2:]]
        texts.append(AskedText(steps=changed, name="changed", trace_id=trace_id))
    found = encoded_study(run, reasoner, TextPlan(tuple(texts), draws=24))
    by = found.texts.groupby("name")
    assert (by.get_group("true")[["p_mean", "p_worst"]] > 0.05).all().all()
    assert (by.get_group("changed")[["p_mean", "p_worst"]] <= 1 / 25).all().all()
    assert (by.get_group("changed")["worst_k"] >= 1).all()  # never the thought before the change
    rows = found.thoughts[(found.thoughts["name"] == "changed") & (found.thoughts["k"] == 0)]
    assert (rows["p"] > 0.05).all()
    # Encoded text is denser than drawn thoughts: that is why it is compared with encoded text.
    own = by.get_group("true")
    assert (own["per_thought"] > own["own_per_thought"]).mean() > 0.8
    assert (own["distinct_draws"] >= 1).all()


def test_own_texts_are_drawn_and_encoded_again(demo: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = demo
    prompt = run.traces["prompt"][0]
    found = own_texts(reasoner, prompt, tau=0.7, draws=5, seed=3)
    again = own_texts(reasoner, prompt, tau=0.7, draws=5, seed=3)
    np.testing.assert_array_equal(found.per_thought, again.per_thought)
    assert len(found.per_thought) + found.not_encoded == 5
    assert (found.worst <= found.per_thought).all()
    assert sum(map(len, found.by_k)) >= len(found.per_thought)


def test_a_study_goes_on_and_invalid_texts_stay(
    brief: tuple[Run, NFCoTReasoner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyses import encoded_study as module

    monkeypatch.setattr(module, "BLOCK", 3)
    run, reasoner = brief
    texts = tuple(
        AskedText(steps=["1x"], trace_id=trace_id) for trace_id in run.traces["trace_id"][:6]
    )
    plan = TextPlan(texts, draws=3)

    def stopped(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded_study(run, reasoner, plan, out=tmp_path / "out", progress=stopped)
    whole = encoded_study(run, reasoner, plan, out=tmp_path / "out")
    assert whole.texts["text"].tolist() == list(range(6))
    with pytest.raises(UserError, match="holds another scoring of texts"):
        encoded_study(run, reasoner, TextPlan(texts, draws=4), out=tmp_path / "out")
    broken = encoded_study(nan_thought(run), reasoner, plan)  # only the trace's own is no number
    assert np.isnan(broken.texts["own_logp_e"][0])
    assert not broken.texts["invalid"].any()


def audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "text", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_command(
    demo: tuple[Run, NFCoTReasoner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = demo
    code, out, _ = audit(capsys, run.path, "-n", 2, "--draws", 3, "--json", "-o", tmp_path / "out")
    assert code == 0
    summary = json.loads(out)
    assert summary["by_name"][0]["name"] == "reference"
    assert summary["scored"]["tensor"].startswith("e of the codec's encoder")
    assert (tmp_path / "out" / "texts.parquet").exists()
    code, out, _ = audit(capsys, run.path, "-n", 2, "--draws", 3)
    assert code == 0
    assert "least likely" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"trace_id": "no", "steps": ["a"]}', "text 1: run has no trace of trace_id 'no'"),
        ('{"problem_id": "no", "steps": ["a"]}', "has no trace of problem_id 'no'"),
        ('{"steps": ["a"]}', "give either 'trace_id' or 'problem_id'"),
        ('{"trace_id": "TRACE", "steps": []}', "field 'steps'"),
        (
            '{"trace_id": "TRACE", "steps": ["#1 1x+2 #1 1x+2 #1 1x+2 #1 1x+2"]}',
            "the codec reads 6",
        ),
        ('{"trace_id": "TRACE", "steps": ["a","a","a","a","a","a","a"]}', "needs 7 thoughts"),
        ('{"trace_id": "TRACE", "steps": ["</think>"]}', "control token"),
        ("[1]", ":1: "),
        ("nonsense", ":1: expected one JSON object"),
        ("", "holds no text"),
    ],
)
def test_bad_input_is_one_line(
    brief: tuple[Run, NFCoTReasoner],
    tmp_path: Path,
    line: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = brief
    file = tmp_path / "texts.jsonl"
    file.write_text(line.replace("TRACE", run.traces["trace_id"][0]) + "\n")
    out = tmp_path / "out"
    code, printed, err = audit(capsys, run.path, "--texts", file, "-o", out)
    assert (code, printed) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not out.exists()


def test_a_run_without_reasoning_to_encode_says_so(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    bare = run.traces.assign(steps=[[] for _ in range(len(run.traces))])
    with pytest.raises(UserError, match="have no reference steps to encode; give --texts FILE"):
        encoded_study(Run(run.path, run.manifest, bare, run.thoughts), reasoner)
    with pytest.raises(UserError, match="holds no thought"):
        encoded_study(Run(run.path, run.manifest, run.traces[:0], run.thoughts[:0]), reasoner)
    with pytest.raises(UserError, match="--draws 0"):
        TextPlan(draws=0)
