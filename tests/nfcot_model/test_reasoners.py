"""Reasoners of every kind: which vector thought k is, one protocol, one format on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nfcot_model.errors import UserError
from nfcot_model.layout import lay_out
from nfcot_model.reasoners import KINDS, WITH_DENSITY, load_nfcot, load_reasoner
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import check_run, collect, read_run
from nfcot_model.traces.view import run_facts, run_view, trace_view
from nfcot_model.worlds import make_world
from tests.tiny import digits, tiny_baseline, tiny_reasoner

PROBLEMS = make_world("digits", "test", 1, 5, steps=(1, 5))
PROMPTS = [p.prompt for p in PROBLEMS]
OTHERS = [kind for kind in KINDS if kind not in WITH_DENSITY]


def tiny(kind: str, **config):
    if kind not in (*WITH_DENSITY, "regressed"):
        return tiny_baseline(kind, **config)
    made = tiny_reasoner(**{"backbone": "llama", "reasoner": kind, **config})
    if kind == "regressed":
        for block in made.model.flow.blocks:
            torch.nn.init.zeros_(block.out.weight)
            torch.nn.init.zeros_(block.out.bias)
    return reasoner_over(made.model, made.tokenizer, made.checkpoint_hash)


def state_after(reasoner, prompt: str, u: torch.Tensor) -> torch.Tensor:
    """The final state behind `[prompt] <think> u`, in one plain pass over embeddings."""
    model = reasoner.model
    ids = [*reasoner.tokens([prompt], opening=True)[0], model.ids.think]
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.tensor([ids]))
        embedded = torch.cat([embedded, model.project(u)[None]], dim=1)
        return model.backbone.base_model(inputs_embeds=embedded).last_hidden_state[0, -1]


def expected_thought(
    kind: str, reasoner, prompt: str, before: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Thought k of the table in docs/reasoners.md, from the thoughts before it and its noise."""
    model = reasoner.model
    if kind == "looped":
        ids = [*reasoner.tokens([prompt], opening=True)[0], model.ids.think, model.ids.end_think]
        x = model.get_input_embeddings()(torch.tensor([ids]))
        for _ in range(len(before) + 1):
            x = model.backbone.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
        return x[0, -1]
    state = state_after(reasoner, prompt, before)
    table = model.get_input_embeddings()
    if kind == "pause":
        return table(torch.tensor(model.ids.thought))
    if kind == "text":
        return table(model.lm_logits(state).argmax())
    if kind in (*WITH_DENSITY, "regressed"):
        mu, log_sigma = model.nf_head(state)
        return mu if kind == "regressed" else mu + log_sigma.exp() * eps
    return state


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "direct"])
@pytest.mark.parametrize("backbone", ["llama", "gpt2"])
def test_thought_k_is_the_vector_of_the_table(kind: str, backbone: str) -> None:
    """With the noise at hand where thoughts are drawn; text is read greedily."""
    reasoner = tiny(kind, backbone=backbone)
    tau = 0.7 if kind in WITH_DENSITY else 0.0
    thoughts = reasoner.think(PROMPTS, tau=tau, noise_seeds=range(5))
    assert thoughts.u.shape[-1] == reasoner.D
    assert int(thoughts.K.max()) > 1
    for i, prompt in enumerate(PROMPTS):
        for k in range(int(thoughts.K[i])):
            with torch.no_grad():
                before, eps = thoughts.u[i, :k], thoughts.eps[i, k]
                expected = expected_thought(kind, reasoner, prompt, before, eps)
            torch.testing.assert_close(thoughts.u[i, k], expected, atol=3e-4, rtol=1e-4)


def columns_of_the_table() -> dict[str, dict[str, str]]:
    """The table of docs/reasoners.md, by kind and column."""
    lines = (Path(__file__).parents[2] / "docs" / "reasoners.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| kind | `u_k` |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    head, _, *body = rows
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in body}


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_columns_of_the_table_hold(kind: str) -> None:
    """D, K, tau, text and step as the table says them, on a tiny model of each kind."""
    row = columns_of_the_table()[kind]
    reasoner = tiny(kind)
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    assert row["D"] == ("d_model" if reasoner.model.d_model == reasoner.D else "codec's")
    assert row["tau"].startswith("of ") == reasoner.draws
    stops = row["K"].startswith(("the model stops", "as `nfcot`", "up to", "loops"))
    assert reasoner.variable_k == stops
    if row["K"].startswith(("0", "fixed")):
        assert len(set(thoughts.K.tolist())) == 1
    decoded = reasoner.decode(thoughts)
    assert decoded.readout == row["text of a thought"].startswith(("LM head", "`<thought>`", "–"))
    slots = {"k // slots": 1, "`k // slots`": 1, "`k // per_step`": 2}
    assert reasoner.thoughts_per_step == slots.get(row["step of thought k"])
    assert (decoded.step_of is not None) == (row["step of thought k"] == "lines before it")
    if row["text of a thought"] == "codec":
        assert list(map(len, decoded.texts)) == thoughts.K.tolist()
        if kind == "dual":
            e = reasoner.model.flow.inverse(thoughts.u, thoughts.mask)
            torch.testing.assert_close(decoded.e, e.detach())


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_states_of_a_thought_are_those_at_its_place(kind: str) -> None:
    reasoner = tiny(kind)
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    scores = reasoner.score(PROMPTS, thoughts, tau=0.7, hidden=True)
    assert scores.hidden.shape[1] == 3
    for k in range(int(thoughts.K[0])):
        state = state_after(reasoner, PROMPTS[0], thoughts.u[0, : k + 1])
        torch.testing.assert_close(scores.hidden[0, -1, k], state, atol=3e-4, rtol=1e-4)


def test_a_direct_reasoner_has_no_thoughts_and_pauses_have_no_content() -> None:
    direct = tiny("direct")
    thoughts = direct.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    assert thoughts.mask.shape == (5, 0)
    assert direct.decode(thoughts).texts == [[]] * 5
    assert len(direct.answer(PROMPTS, thoughts)) == 5
    pause = tiny("pause")
    u = pause.think(PROMPTS, tau=0.7, noise_seeds=range(5)).u
    assert (u == u[0, 0]).all()
    assert (
        pause.decode(Thoughts.given(u, torch.ones(5, 3, dtype=torch.bool))).texts
        == [["<thought>"] * 3] * 5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_and_answers_do_not_depend_on_the_batch(kind: str) -> None:
    reasoner = tiny(kind)
    thoughts = reasoner.think(PROMPTS, tau=0.7, noise_seeds=range(5))
    answers = reasoner.answer(PROMPTS, thoughts)
    for i, prompt in enumerate(PROMPTS):
        alone = reasoner.think([prompt], tau=0.7, noise_seeds=[i])
        K = int(alone.K[0])
        assert int(thoughts.K[i]) == K
        torch.testing.assert_close(alone.u[0, :K], thoughts.u[i, :K], atol=2e-4, rtol=1e-4)
        assert reasoner.answer([prompt], alone) == answers[i : i + 1]


@pytest.mark.parametrize("kind", OTHERS)
def test_only_text_draws_and_only_by_its_seed(kind: str) -> None:
    reasoner = tiny(kind)
    one, again, other = (reasoner.think(PROMPTS, tau=2.0, noise_seeds=[s] * 5).u for s in (1, 1, 2))
    assert torch.equal(one, again)
    same = one.shape == other.shape and torch.equal(one, other)
    assert same != reasoner.draws
    assert reasoner.draws == (kind == "text")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_what_it_holds(kind: str, tmp_path) -> None:
    reasoner = tiny(kind)
    reasoner.save(tmp_path / "m")
    loaded = load_reasoner(tmp_path / "m")
    assert (loaded.name, type(loaded)) == (kind, type(reasoner))
    thoughts = loaded.think(PROMPTS, tau=0.0, noise_seeds=range(5))
    assert torch.equal(thoughts.u, reasoner.think(PROMPTS, tau=0.0, noise_seeds=range(5)).u)
    assert loaded.answer(PROMPTS, thoughts) == reasoner.answer(PROMPTS, thoughts)
    if kind in WITH_DENSITY:
        assert load_nfcot(tmp_path / "m").checkpoint_hash == loaded.checkpoint_hash
    else:
        with pytest.raises(UserError, match=f"reasons as '{kind}', expected a model of nfcot"):
            load_nfcot(tmp_path / "m")


def test_a_kind_of_another_version_is_named(tmp_path) -> None:
    tiny("codi").save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "reasoner": "telepathy"}))
    with pytest.raises(UserError, match="reasons as 'telepathy', this version knows nfcot,"):
        load_reasoner(tmp_path / "m")
    path.write_text(json.dumps({**config, "projector": 0}))
    with pytest.raises(UserError, match=r"weights missing or unknown, such as 'projector\.0"):
        load_reasoner(tmp_path / "m")


@pytest.mark.parametrize("kind", OTHERS)
def test_scores_are_unknown_and_states_are_those_of_one_pass(kind: str) -> None:
    reasoner = tiny(kind)
    thoughts = reasoner.think(PROMPTS, tau=0.0, noise_seeds=range(5))
    answers, scores = reasoner.answer_scored(PROMPTS, thoughts, tau=1.0, hidden=True)
    assert answers == reasoner.answer(PROMPTS, thoughts)
    assert not torch.isfinite(scores.logp).any()
    assert not torch.isfinite(scores.energy).any()
    alone = reasoner.score(PROMPTS, thoughts, tau=1.0, hidden=True)
    torch.testing.assert_close(scores.hidden, alone.hidden, atol=2e-4, rtol=1e-4)
    K = thoughts.u.shape[1]
    assert scores.hidden.shape == (5, 3, K, reasoner.model.d_model)
    if kind == "looped":
        torch.testing.assert_close(scores.hidden[:, -1], thoughts.u)
        torch.testing.assert_close(scores.hidden[:, 0, 1:], thoughts.u[:, :-1])
        return
    for k in range(int(thoughts.K[0])):
        state = state_after(reasoner, PROMPTS[0], thoughts.u[0, : k + 1])
        torch.testing.assert_close(scores.hidden[0, -1, k], state, atol=2e-4, rtol=1e-4)


def test_without_a_codec_text_is_no_thought() -> None:
    with pytest.raises(UserError, match="reasoner 'coconut' has no codec"):
        tiny("coconut").encode([["#1 4x+7"]])


@pytest.mark.parametrize("kind", ["text", "pause", "coconut", "codi"])
def test_thoughts_that_are_given_decide_the_answer(kind: str) -> None:
    """Thoughts of another problem are read as they stand: a donor's stream is the donor's."""
    reasoner = tiny(kind)
    own = reasoner.think(PROMPTS, tau=0.0, noise_seeds=range(5))
    given = replace(own, u=own.u.flip(0), mask=own.mask.flip(0))
    _, scores = reasoner.answer_scored(PROMPTS, given, tau=1.0, hidden=True)
    k = int(given.K[0]) - 1
    expected = state_after(reasoner, PROMPTS[0], given.u[0, : k + 1])
    torch.testing.assert_close(scores.hidden[0, -1, k], expected, atol=2e-4, rtol=1e-4)


def test_a_budget_cuts_and_says_so() -> None:
    for kind in ("pause", "coconut", "codi", "looped"):
        reasoner = tiny(kind)
        cut = reasoner.think(PROMPTS, tau=0.0, noise_seeds=[], max_thoughts=2)
        whole = reasoner.think(PROMPTS, tau=0.0, noise_seeds=[])
        assert cut.K.tolist() == [2] * 5
        assert not cut.stopped.any()
        assert whole.stopped.all()
        torch.testing.assert_close(cut.u, whole.u[:, :2])
    text = tiny("text", seed=3)
    cut = text.think(PROMPTS, tau=0.0, noise_seeds=[], max_thoughts=1)
    assert (cut.K <= 1).all()
    assert (cut.K + cut.stopped >= 1).all()


def test_written_reasoning_is_read_back_line_by_line() -> None:
    reasoner = tiny("text")
    texts = ["#1 4x+7\n#2 8x+1", "#1 2x+0", ""]
    rows = reasoner.tokens(texts)
    width = max(map(len, rows))
    mask = torch.tensor([[k < len(row) for k in range(width)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    with torch.no_grad():
        u = reasoner.model.get_input_embeddings()(ids)
    decoded = reasoner.decode(Thoughts.given(u, mask))
    assert decoded.texts == [["#1 4x+7", "#2 8x+1"], ["#1 2x+0"], []]
    newline = rows[0].index(reasoner.tokens(["\n"])[0][0])
    assert decoded.step_of is not None
    assert decoded.step_of[0] == [0] * (newline + 1) + [1] * (len(rows[0]) - newline - 1)
    assert list(map(len, decoded.step_of)) == [len(row) for row in rows]
    noisy = Thoughts.given(u + 1e-3 * torch.randn_like(u), mask)
    assert reasoner.decode(noisy).texts == decoded.texts


def test_reasoning_that_ends_at_once_is_a_trace_without_thoughts(tmp_path, monkeypatch) -> None:
    reasoner = tiny("text")
    end = 100.0 * torch.eye(400)[reasoner.model.ids.end_think]
    monkeypatch.setattr(reasoner.model, "lm_logits", lambda h: end.expand(*h.shape[:-1], -1))
    collect(reasoner, digits(3), tmp_path / "r", activations="all")
    run = read_run(tmp_path / "r")
    assert run.traces["K"].tolist() == [0, 0, 0]
    assert run.traces["stopped"].all()
    assert len(run.thoughts) == 0


def test_writing_is_the_greedy_continuation_of_the_prompt() -> None:
    """Thinking and answering as text are one continuation, as in training."""
    reasoner = tiny("text", seed=1)
    thoughts = reasoner.think(PROMPTS, tau=0.0, noise_seeds=[])
    i = int(thoughts.K.argmax())
    prompt = reasoner.tokens([PROMPTS[i]], opening=True)
    written = reasoner.nearest_tokens(thoughts.u[i, : int(thoughts.K[i])]).tolist()
    layout = lay_out(prompt, [0], reasoner.model.ids, answers=[[]], reasoning=[written])
    with torch.no_grad():
        states = reasoner.model.stream(layout, torch.zeros(1, 1, reasoner.D)).last_hidden_state
    first = len(prompt[0])
    greedy = reasoner.model.lm_logits(states)[0, first : first + len(written)].argmax(-1)
    assert greedy.tolist()[: len(written)] == written


@pytest.mark.parametrize("kind", OTHERS)
def test_a_run_of_any_kind_is_one_format(kind: str, tmp_path) -> None:
    reasoner = tiny(kind)
    problems = digits(8)
    summary = collect(reasoner, problems, tmp_path / "r", activations="all", samples=1)
    assert summary.replay_error_max is None
    run = read_run(tmp_path / "r")
    assert run.manifest["scorer"] == "none"
    assert run.manifest["decode"]["tau"] == (0.7 if kind == "text" else 0.0)
    assert run.tensor_names == (["e", "h", "u"] if kind == "regressed" else ["h", "u"])
    for name in ("logp", "energy", "logvol"):
        assert run.thoughts[name].isna().all()
    for name in ("logp_u", "logp_u_K", "logp_e", "energy", "logvol", "replay_error"):
        assert run.traces[name].isna().all()
    assert check_run(tmp_path / "r").whole
    again = collect(reasoner, problems, tmp_path / "r", activations="all")
    assert again.resumed == 8
    facts = run_facts(run)
    assert facts["logp_u"] is None
    assert run_view(run)
    assert trace_view(run, run.traces["trace_id"][0])
    thoughts = reasoner.think([p.prompt for p in problems], tau=0.0, noise_seeds=range(8))
    if not reasoner.draws:
        np.testing.assert_array_equal(run.tensor("u"), thoughts.u[thoughts.mask].numpy())
    steps = run.step_labels()
    if kind in ("coconut", "text", "regressed"):
        first = run.thoughts["step"] == 0
        truth = [p.step_labels[0]["operation"] for p in problems]
        owners = run.thoughts.loc[first, "trace_id"]
        by_trace = dict(zip(run.traces["trace_id"], truth, strict=True))
        assert steps.loc[first, "operation"].tolist() == owners.map(by_trace).tolist()
    else:
        assert list(steps) == []
    if kind == "coconut":
        assert run.thoughts["step"].tolist() == [0, 0, 1, 1] * 8
        assert run.thoughts["match"].isna().all()


def test_a_tampered_run_without_a_density_is_still_seen(tmp_path) -> None:
    collect(tiny("coconut"), digits(4), tmp_path / "r")
    file = next((tmp_path / "r" / "tensors").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert not check_run(tmp_path / "r").whole
