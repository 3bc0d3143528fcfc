"""Λ is the difference it says it is, batch by batch; its ranks hold; the demo's map is diagonal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.context.asked import AskedSpan, spans_of
from analyses.context.placebo import Length, length_of, matched, rank
from analyses.context.ratio import log_ratios
from analyses.context.spans import KINDS, apart, count_words, cut, windows, without
from analyses.context.study import Plan, context_study
from analyses.stored import stored_thoughts
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import make_world
from tests.analyses.runs import brief_run, nan_thought

PROMPT = "Take a digit x: #1 increase by 5; #2 take away 8. Compile it."


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner]:
    return brief_run(tmp_path_factory.mktemp("context"))


def said(prompt: str, kind: str) -> list[str]:
    return [" ".join(prompt[a:b] for a, b in span.ranges) for span in cut(prompt, kind)]


def test_prompts_are_cut_as_a_reader_would() -> None:
    assert said(PROMPT, "words")[3:8] == ["x", "#1", "increase", "by", "5"]
    assert said(PROMPT, "clauses")[1] == "#1 increase by 5;"
    assert said(PROMPT, "sentences")[1] == "Compile it."
    assert said(PROMPT, "operations") == ["increase by 5", "take away 8"]
    assert [span.step for span in cut(PROMPT, "operations")] == [0, 1]
    assert said("One 3.5 line\n\nTwo? Three", "sentences") == ["One 3.5 line", "Two?", "Three"]


@pytest.mark.parametrize(
    ("part", "left"),
    [
        ("Take", "a digit x: #1 increase by 5; #2 take away 8. Compile it."),
        ("increase by 5", "Take a digit x: #1; #2 take away 8. Compile it."),
        ("by", "Take a digit x: #1 increase 5; #2 take away 8. Compile it."),
        ("Compile it.", "Take a digit x: #1 increase by 5; #2 take away 8."),
    ],
)
def test_what_is_left_is_what_a_writer_would_write(part: str, left: str) -> None:
    start = PROMPT.index(part)
    assert without(PROMPT, ((start, start + len(part)),)) == left


@given(st.text("ab .;#1\n?", max_size=30), st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_spans_are_apart_in_order_and_inside(prompt: str, kind: str) -> None:
    places = [span.ranges[0] for span in cut(prompt, kind)]
    assert places == sorted(places)
    assert all(0 <= a < b <= len(prompt) and prompt[a:b].strip() for a, b in places)
    for i, one in enumerate(places):
        assert all(apart((one,), (other,)) for other in places[i + 1 :])
    for a, b in places:
        kept = without(prompt, ((a, b),)).split()
        assert "".join(kept) == "".join((prompt[:a] + prompt[b:]).split())


def test_a_text_is_taken_wherever_it_stands() -> None:
    traces = pd.DataFrame({"trace_id": ["t"], "problem_id": ["p"], "prompt": ["a b. a c"]})
    [[span]], _ = spans_of(traces, [AskedSpan(text="a")])
    assert span.ranges == ((0, 1), (5, 6))
    assert without("a b. a c", span.ranges) == "b. c"


def test_log_ratios_are_differences_of_scores_whatever_the_batch(
    brief: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = brief
    prompts = run.traces["prompt"].tolist()
    thoughts = stored_thoughts(run)
    removals = [
        (row, without(prompts[row], span.ranges))
        for row in (3, 0, 7)
        for span in cut(prompts[row], "words")[:4]
    ]
    heard: list[int] = []
    found = log_ratios(reasoner, prompts, thoughts, removals, tau=0.7, progress=heard.append)
    assert sum(heard) == len(removals) + 3
    narrow = log_ratios(reasoner, prompts, thoughts, removals, tau=0.1, batch=2)
    torch.testing.assert_close(found.thoughts, narrow.thoughts, atol=1e-4, rtol=1e-4)
    assert found.valid.all()
    for i, (row, left) in enumerate(removals):
        one = thoughts.rows(torch.tensor([row]))
        whole, part = (reasoner.score([text], one, tau=0.7) for text in (prompts[row], left))
        K = int(one.K)
        for name, mine in (("logp", found.thoughts), ("stop_logp", found.stop)):
            wanted = (getattr(whole, name) - getattr(part, name))[0]
            torch.testing.assert_close(mine[i, :K], wanted, atol=1e-4, rtol=1e-4)
        assert (found.thoughts[i, K:] == 0).all()


def test_thoughts_that_are_no_numbers_are_invalid_and_disturb_nobody(
    brief: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = brief
    prompts = run.traces["prompt"].tolist()
    thoughts = stored_thoughts(run)
    u = thoughts.u.clone()
    u[2, 0, 0] = torch.nan
    broken = replace(thoughts, u=u)
    first = {row: cut(prompts[row], "words")[0].ranges for row in (1, 2)}
    removals = [(row, without(prompts[row], ranges)) for row, ranges in first.items()]
    found = log_ratios(reasoner, prompts, broken, removals, tau=0.7)
    assert found.valid.tolist() == [True, False]
    clean = log_ratios(reasoner, prompts, thoughts, removals, tau=0.7)
    torch.testing.assert_close(found.thoughts[0], clean.thoughts[0])
    result = context_study(nan_thought(run), reasoner, Plan("sentences", n=99, elsewhere=5))
    spans = result.spans
    hit = spans["trace_id"] == run.traces["trace_id"][0]
    assert hit.any()
    assert (spans["invalid"] == hit).all()
    assert spans.loc[hit, ["total", "p_total_same", "peak"]].isna().all().all()
    assert result.summary["population"]["invalid"] == int(hit.sum())


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_ranks_of_exchangeable_spans_are_valid(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).integers(0, 6, (800, n + 1)).astype(float)  # with ties
    p = rank(values[:, 0], values[:, 1:])
    for alpha in (0.1, 0.3):
        assert (p <= alpha).mean() <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / 800)


def test_a_rank_counts_placebos_without_a_number_against_the_span() -> None:
    placebos = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    p = rank(np.array([2.0, np.nan, 5.0]), placebos)
    assert p[0] == 3 / 4
    assert np.isnan(p[1])
    assert p[2] == 1 / 4
    assert np.isnan(rank(np.array([1.0]), np.zeros((1, 0)))).all()


def test_placebos_are_as_long_and_apart(brief: tuple[Run, NFCoTReasoner]) -> None:
    _, reasoner = brief
    span = cut(PROMPT, "operations")[0]
    length = length_of(reasoner, PROMPT, span.ranges)
    assert length.words == 3 == count_words(PROMPT, span.ranges)
    found = matched(reasoner, PROMPT, length, span.ranges, 4, np.random.default_rng(0))
    assert len(found) == 4
    for placebo in found:
        assert apart(placebo.ranges, span.ranges)
        assert length.close(length_of(reasoner, PROMPT, placebo.ranges).tokens)
        assert len(placebo.name.split()) == 3
    assert matched(reasoner, "one", Length(1, 1), (), 4, np.random.default_rng(0)) == []
    assert [w.name for w in windows("a b. c", 2)] == ["a b", "b. c"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner]:
    reasoner = load_reasoner("demo")
    folder = tmp_path_factory.mktemp("demo") / "run"
    collect(reasoner, make_world("digits", "test", 7, 10, (3, 5)), folder, model_path="demo")
    return read_run(folder), reasoner


def test_operations_point_at_the_thought_of_their_step_and_placebos_do_not(
    demo: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = demo
    result = context_study(run, reasoner, Plan("operations", placebos=8, elsewhere=10))
    whole = result.summary["localisation"][0]
    assert whole["step"] is None
    assert whole["n"] == int(run.traces["steps"].map(len).sum())
    assert whole["top1"]["value"] >= 0.7
    assert whole["owner_top1"]["value"] >= 0.7
    assert whole["placebo_top1"]["high"] <= 0.35
    assert whole["above"]["low"] >= 0.3


def test_text_that_says_nothing_drives_nothing(demo: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = demo
    opening = [AskedSpan(text=text, name="closing") for text in ("As one", "Give one", "Compile")]
    known = [a for a in opening if run.traces["prompt"].str.contains(a.text).any()]
    found = context_study(run, reasoner, Plan(tuple(known), elsewhere=30))
    plain = context_study(run, reasoner, Plan("operations", elsewhere=0, placebos=0))
    assert np.abs(found.spans["total"]).median() < 0.1 * plain.spans["total"].median()
    assert (found.spans["p_total_elsewhere"] > 0.05).mean() >= 0.8


def test_a_study_goes_on_where_it_was_stopped(
    brief: tuple[Run, NFCoTReasoner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyses.context import study

    monkeypatch.setattr(study, "BLOCK", 4)
    run, reasoner = brief
    plan = Plan("clauses", n=12, placebos=3, elsewhere=5)
    whole = context_study(run, reasoner, plan)

    def stopped(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        context_study(run, reasoner, plan, out=tmp_path / "a", progress=stopped)
    written = sorted(p.name for p in (tmp_path / "a" / "rows").glob("*.json"))
    assert written == ["00000.json", "elsewhere.json"]
    (tmp_path / "a" / "rows" / "00001.json").write_text("{")  # half a block is no block
    again = context_study(run, reasoner, plan, out=tmp_path / "a")
    for table in ("spans", "thoughts", "placebos"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(whole, table), atol=1e-3)
    with pytest.raises(UserError, match="holds another study of Λ"):
        context_study(run, reasoner, Plan("words"), out=tmp_path / "a")


def audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "lambda", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_command_writes_one_document_and_tables(
    brief: tuple[Run, NFCoTReasoner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = brief
    asked = (run.path, "-n", 3, "--placebos", 2, "--elsewhere", 3, "-o", tmp_path / "out")
    code, out, _ = audit(capsys, *asked, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["scored"]["scorer"] == "self, counterfactual-context"
    assert summary["scored"]["tau"] == 0.7
    assert set(summary) >= {"population", "by_name", "localisation", "not_shown", "artifact"}
    spans = pd.read_parquet(tmp_path / "out" / "spans.parquet")
    thoughts = pd.read_parquet(tmp_path / "out" / "thoughts.parquet")
    assert summary["population"]["spans"] == len(spans)
    totals = thoughts.groupby(["trace_id", "span"])["log_ratio"].sum()
    np.testing.assert_allclose(
        totals, spans.set_index(["trace_id", "span"])["total"].sort_index(), atol=1e-6
    )
    code, out, _ = audit(capsys, run.path, "--trace", run.traces["trace_id"][0], "--elsewhere", 2)
    assert code == 0
    assert "Λ in nats" in out
    assert "no causal proof" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--spans", "letters"), "--spans letters: is neither words, clauses"),
        (("--trace", "zz"), "holds no trace 'zz'"),
        (("-n", "0"), "-n 0: expected at least 1"),
        (("--placebos", "-1"), "--placebos -1: expected at least 0"),
        (("--model", "demo"), "demo: is checkpoint"),
        (('{"text": "nowhere"}',), "span 1: 'nowhere' is in no prompt"),
        (('{"text": "Take", "trace_id": "no"}',), "span 1: no trace has trace_id 'no'"),
        (('{"text": 3}',), ":1: field 'text': expected text, found 3"),
        (('{"ranges": [[0, 4]]}',), "'ranges' need a 'trace_id' or 'problem_id'"),
        (('{"name": "x"}',), "give either 'text' or 'ranges'"),
        (("nonsense",), ":1: expected one JSON object"),
        (("",), "holds no span"),
    ],
)
def test_bad_input_is_one_line(
    brief: tuple[Run, NFCoTReasoner],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not arguments[0].startswith("-"):
        (tmp_path / "spans.jsonl").write_text(arguments[0] + "\n")
        arguments = ("--spans", str(tmp_path / "spans.jsonl"))
    out = tmp_path / "out"
    code, printed, err = audit(capsys, brief[0].path, "-o", out, *arguments)
    assert (code, printed) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not out.exists()


def test_what_leaves_no_prompt_is_refused(brief: tuple[Run, NFCoTReasoner]) -> None:
    run, reasoner = brief
    trace = run.traces.iloc[0]
    whole = AskedSpan(ranges=[(0, len(trace["prompt"]))], trace_id=trace["trace_id"])
    with pytest.raises(UserError, match="is the whole prompt of trace"):
        context_study(run, reasoner, Plan((whole,)))
    beyond = AskedSpan(ranges=[(0, 9999)], trace_id=trace["trace_id"])
    with pytest.raises(UserError, match="is in no prompt that it was asked of"):
        context_study(run, reasoner, Plan((beyond,)))
    with pytest.raises(UserError, match="nothing is left of it"):
        log_ratios(reasoner, ["a"], stored_thoughts(run, np.array([0])), [(0, " ")], tau=0.7)
    traces = run.traces.assign(prompt="one")
    with pytest.raises(UserError, match="no prompt has words without which something is left"):
        spans_of(traces, "words")


def test_every_span_of_the_user_counts_however_few_traces_are_looked_at(
    brief: tuple[Run, NFCoTReasoner],
) -> None:
    run, reasoner = brief
    both = [AskedSpan(ranges=[(0, 4)], trace_id=run.traces["trace_id"][i]) for i in (2, 5)]
    found = context_study(run, reasoner, Plan(tuple(both), n=1, elsewhere=0)).summary
    assert found["population"]["traces"] == 1
    assert found["population"]["traces_beyond_n"] == 1
    assert found["population"]["traces_without_span_or_thought"] == len(run.traces) - 2


def test_models_and_runs_that_cannot_be_scored_are_refused(
    brief: tuple[Run, NFCoTReasoner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reasoner = brief
    with pytest.raises(UserError, match="was traced with another checkpoint"):
        context_study(run, load_reasoner("demo"), Plan())
    empty = Run(run.path, run.manifest, run.traces[:0], run.thoughts[:0])
    with pytest.raises(UserError, match="holds no thought"):
        context_study(empty, reasoner, Plan())
    monkeypatch.setattr(reasoner, "has_likelihood", False)
    with pytest.raises(UserError, match="the reasoner 'nfcot' has none"):
        context_study(run, reasoner, Plan())
