"""Lenses see what is planted, stay at their floor where nothing is, and say what they leave out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses.lens.affine import cross_fitted, shuffled_within
from analyses.lens.codec import codec_round_trip, flow_round_trip, mean_texts, thought_texts
from analyses.lens.hits import noise_hits, text_hits, token_hits
from analyses.lens.logit import layer_count, logit_lens
from analyses.lens.measures import estimates, measured
from analyses.lens.study import LensResult, Plan, read_run_through, read_trace_through
from analyses.lens.targets import common_tokens, foreign_traces, thoughts_of
from nfcot_model import cli, demo_path, load_reasoner
from nfcot_model.errors import UserError
from nfcot_model.hooks import hooked
from nfcot_model.model import model_over
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import Problem, make_world
from tests.tiny import brief_reasoner, digits, tiny_reasoner

N = 48


def metrics(
    result: LensResult, lens: str, layer: int | None = None, at: str = "all", index: Any = None
) -> dict[str, dict[str, Any]]:
    (entry,) = (
        entry
        for entry in result.summary["measures"]
        if (entry["lens"], entry["layer"], entry["at"], entry["index"]) == (lens, layer, at, index)
    )
    return entry["metrics"]


def traced(reasoner: Any, path: Path, problems: Sequence[Problem], tau: float = 0.7) -> Run:
    collect(reasoner, problems, path, tau=tau)
    return read_run(path)


class Told(NFCoTReasoner):
    """A reasoner whose thoughts are what `tell` makes of the true steps, not its own."""

    tell: Callable[[list[list[str]]], Thoughts]
    known: dict[str, list[str]]

    def think(self, prompts: Sequence[str], **rest: Any) -> Thoughts:  # type: ignore[override]
        return self.tell([self.known[prompt] for prompt in prompts])


def told(
    reasoner: NFCoTReasoner, problems: Sequence[Problem], tell: Callable[..., Thoughts]
) -> Told:
    planted = Told(reasoner.model, reasoner.tokenizer, reasoner.checkpoint_hash)
    planted.tell, planted.known = tell, {p.prompt: p.steps for p in problems}
    return planted


@pytest.fixture(scope="module")
def demo() -> NFCoTReasoner:
    return load_reasoner(demo_path())


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[NFCoTReasoner, Run]:
    reasoner = tiny_reasoner("llama", seed=3)
    return reasoner, traced(reasoner, tmp_path_factory.mktemp("lens") / "run", digits(N, 1))


# --- what the lenses read --------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["qwen3", "llama", "gpt2", "gemma", "gemma2"])
def test_the_last_layer_says_what_the_model_says(backbone: str) -> None:
    reasoner = softcapped() if backbone == "gemma2" else tiny_reasoner(backbone)
    prompts = [p.prompt for p in digits(5)]
    mask = torch.arange(4) < torch.tensor([[4], [1], [3], [2], [4]])
    u = torch.randn(5, 4, reasoner.D, generator=torch.Generator().manual_seed(0))
    thoughts = Thoughts.given(u, mask)
    bridge = hooked(reasoner.model)
    last = layer_count(bridge) - 1
    layout = reasoner.layout(prompts, thoughts.K.tolist(), side="right")
    rows = int(thoughts.mask.sum())
    wanted = torch.tensor([[7, -1, 0]]).expand(rows, -1)
    read = logit_lens(bridge, layout, thoughts.u, [0, last], 4, wanted)
    states = reasoner.score(prompts, thoughts, tau=0.7, hidden=True).hidden
    assert states is not None
    own = reasoner.model.lm_logits(states[:, -1][thoughts.mask]).softmax(-1)
    best = own.topk(4, dim=-1)
    torch.testing.assert_close(read[last].probability, best.values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own.gather(-1, read[last].top), best.values, atol=1e-5, rtol=1e-4)
    above = (own > own[:, [7]] + 1e-6).sum(-1)
    near = ((own - own[:, [7]]).abs() <= 1e-6).sum(-1)
    assert ((above < read[last].rank[:, 0]) & (read[last].rank[:, 0] <= above + near)).all()
    assert not read[last].rank[:, 1].any()
    entered = reasoner.model.project(thoughts.u[thoughts.mask])
    if backbone in ("qwen3", "llama"):
        raw = reasoner.model.lm_logits(reasoner.model.backbone.base_model.norm(entered))
        top = raw.softmax(-1).topk(4, dim=-1).values
        torch.testing.assert_close(read[0].probability, top, atol=1e-5, rtol=1e-4)


def softcapped() -> NFCoTReasoner:
    """A backbone whose logits are bounded after the LM head."""
    reasoner = tiny_reasoner("gemma")
    config: dict[str, Any] = {
        "model_type": "gemma2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "final_logit_softcapping": 0.5,
        "initializer_range": 0.2,
    }
    small = {"d_model": 16, "layers": 1, "heads": 2}
    torch.manual_seed(0)
    model = model_over(config, reasoner.tokenizer, D=4, max_thoughts=8, codec=small)
    assert float(model.lm_logits(torch.full((1, 32), 9.0)).detach().abs().max()) <= 0.5
    return NFCoTReasoner(model, reasoner.tokenizer, "capped")


def some_thoughts(reasoner: NFCoTReasoner, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    thoughts = reasoner.think([p.prompt for p in digits(8)], tau=1.0, noise_seeds=range(seed, 8))
    return thoughts.u, thoughts.mu, thoughts.mask


@pytest.mark.parametrize("order", ["causal", "alternating"])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_thought_put_in_its_own_place_reads_as_it_did(order: str, slots: int) -> None:
    flow = {"d_model": 16, "heads": 2, "order": order}
    codec = {"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 6, "slots": slots}
    reasoner = tiny_reasoner("llama", seed=4, flow=flow, codec=codec)
    u, mu, mask = some_thoughts(reasoner)
    own = thought_texts(reasoner, u, mask)
    assert mean_texts(reasoner, u, u, mask) == own
    assert len(own) == int(mask.sum())
    decoded = reasoner.decode(Thoughts.given(u, mask)).texts
    places = mask.nonzero().tolist()
    assert own == [decoded[i][k // slots] for i, k in places]
    before = mean_texts(reasoner, u, mu, mask)
    assert before != own
    later = u.clone()
    later[:, slots:] += 1.0
    after = mean_texts(reasoner, later, mu, mask)
    first = [i for i, (_, k) in enumerate(places) if k < slots]
    same = [before[i] == after[i] for i in first]
    assert all(same) if order == "causal" else not all(same)


def test_a_mean_is_decoded_after_the_thoughts_it_was_predicted_from() -> None:
    reasoner = tiny_reasoner("llama", seed=4)
    u, mu, mask = some_thoughts(reasoner)
    k = 1
    replaced = u.clone()
    replaced[:, k] = mu[:, k]
    texts = reasoner.decode(Thoughts.given(replaced, mask)).texts
    said = mean_texts(reasoner, u, mu, mask)
    places = [place for place, (_, at) in enumerate(mask.nonzero().tolist()) if at == k]
    assert [said[p] for p in places] == [texts[i][k] for i in mask[:, k].nonzero()[:, 0].tolist()]


def test_round_trips_of_the_shipped_codec(demo: NFCoTReasoner) -> None:
    problems = digits(12)
    back = codec_round_trip(demo, [step for p in problems for step in p.steps])
    assert np.mean(list(back.values())) > 0.95
    too_long = "#1 " + "9" * 60
    assert codec_round_trip(demo, ["#1 1x+3", too_long, "9 9 x x"]) == {
        "#1 1x+3": True,
        "9 9 x x": False,
    }
    through = flow_round_trip(demo, [problems[0].steps, [], ["#1 1x+3"] * 40])
    assert through == [[True] * len(problems[0].steps), None, None]


# --- planted signal, planted null ------------------------------------------------------------


def test_thoughts_that_are_the_encoded_steps_read_as_well_as_the_codec_can(
    demo: NFCoTReasoner, tmp_path: Path
) -> None:
    problems = digits(N, 5)
    planted = told(demo, problems, demo.encode)
    result = read_run_through(
        traced(planted, tmp_path / "run", problems), demo, Plan(("codec", "mean"))
    )
    codec = result.rows[result.rows["lens"] == "codec"]
    assert (codec["step_hit"] == codec["flow_round_trip"]).all()
    found = metrics(result, "codec")
    assert found["step_hit"]["value"] > 0.95
    assert found["step_floor"]["high"] < 0.15
    assert found["step_above"]["low"] > 0.8
    assert metrics(result, "codec", at="back", index=-1)["last_step_hit"]["value"] > 0.95
    assert metrics(result, "codec", at="k", index=0)["last_step_hit"]["value"] < 0.05
    # What the model itself would have thought, and what it was told, are the same steps.
    assert metrics(result, "mean")["step_hit"]["value"] > 0.9
    assert result.summary["notes"] == []


def test_a_token_planted_in_a_thought_is_seen_at_the_embeddings(tmp_path: Path) -> None:
    problems = make_world("digits", "test", 2, N, (2, 4))
    reasoner = tiny_reasoner("llama", D=10)
    digit = {
        str(d): int(reasoner.tokenizer(f"#1 1x+{d}", add_special_tokens=False)["input_ids"][-1])
        for d in range(10)
    }
    with torch.no_grad():
        rows = reasoner.model.get_output_embeddings().weight[list(digit.values())]
        reasoner.model.projection.weight.copy_(rows.T)

    def offsets(steps: list[list[str]]) -> Thoughts:
        mask = torch.arange(max(map(len, steps))) < torch.tensor([[len(row)] for row in steps])
        u = torch.zeros(*mask.shape, 10)
        for i, row in enumerate(steps):
            for k, step in enumerate(row):
                u[i, k, int(step[-1])] = 1.0
        return Thoughts.given(u, mask)

    run = traced(told(reasoner, problems, offsets), tmp_path / "run", problems)
    result = read_run_through(run, reasoner, Plan(("logit",), top=1))
    found = metrics(result, "logit", 0)
    assert found["step_hit"]["low"] > 0.5
    assert found["step_floor"]["high"] < 0.3
    assert found["step_above"]["low"] > 0.3
    assert found["step_rr"]["value"] > found["step_rr_foreign"]["value"] + 0.3
    rows = result.rows[(result.rows["layer"] == 0)]
    said = [words[0] == step[-1] for words, step in zip(rows["said"], rows["step"], strict=True)]
    assert np.mean(said) > 0.95


def test_an_affine_map_finds_a_thought_where_it_stands(demo: NFCoTReasoner, tmp_path: Path) -> None:
    problems = make_world("digits", "test", 3, 100, (2, 4))
    run = traced(demo, tmp_path / "run", problems)
    result = read_run_through(run, demo, Plan(("affine",), layers=(0,), n=100))
    found = metrics(result, "affine", 0)
    assert found["step_hit"]["low"] > 0.3, "u enters linearly, and e is close to linear in it"
    assert found["step_floor"]["high"] < 0.2
    assert found["shuffled_hit"]["high"] < 0.2
    few = read_run(run.path)
    with pytest.raises(UserError, match="give at least 8"):
        read_run_through(few, demo, Plan(("affine",), n=7))


def test_an_affine_map_is_read_on_groups_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(0)
    h = rng.normal(size=(120, 6))
    groups = np.repeat(np.arange(40), 3).astype(str).astype(object)
    linear = h @ rng.normal(size=(6, 2)) + 1.0
    assert np.abs(cross_fitted(h, linear, groups, 0) - linear).max() < 0.05
    own = np.repeat(rng.normal(size=(40, 2)), 3, axis=0)  # what each group says, not in h
    wide = np.concatenate([np.repeat(np.eye(40), 3, axis=0), h], axis=1)
    error = np.square(cross_fitted(wide, own, groups, 0) - own).mean()
    assert error > 0.8 * own.var(), "a map fitted on the same groups would know them by heart"
    k = np.tile([0, 1, 2], 40)
    mixed = shuffled_within(linear, k, 0)
    for index in range(3):
        assert np.allclose(np.sort(mixed[k == index], 0), np.sort(linear[k == index], 0))
    assert (mixed != linear).any(axis=1).mean() > 0.9


def test_a_random_model_stays_at_the_floor(random_run: tuple[NFCoTReasoner, Run]) -> None:
    reasoner, run = random_run
    result = read_run_through(run, reasoner, Plan(n=N, top=40))
    for layer in range(3):
        found = metrics(result, "logit", layer)
        assert 0.02 < found["step_hit"]["value"] < 0.4
        for target in ("step", "last_step"):
            above = found[f"{target}_above"]
            assert above["low"] - 0.03 <= 0 <= above["high"] + 0.03, (layer, target, above)
    for lens in ("codec", "mean"):
        assert metrics(result, lens)["step_hit"]["value"] == 0
        assert metrics(result, lens)["step_floor"]["value"] == 0
    assert metrics(result, "codec")["codec_round_trip"]["value"] == 0
    assert metrics(result, "mean")["changed"]["value"] > 0.5
    assert "not that the answer depends on it" in result.summary["not_shown"]


def test_at_tau_zero_nothing_lies_between_mean_and_thought(tmp_path: Path) -> None:
    reasoner = brief_reasoner()
    run = traced(reasoner, tmp_path / "run", digits(8), tau=0.0)
    result = read_run_through(run, reasoner, Plan(("codec", "mean")))
    assert metrics(result, "mean")["changed"]["value"] == 0
    assert any("tau 0" in note for note in result.summary["notes"])


# --- measures ---------------------------------------------------------------------------------


def test_intervals_are_over_groups_and_end_exactly_at_the_edges() -> None:
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.random(40) < 0.5, 5).astype(float)
    lone = np.array([0.0, np.nan] * 100)
    values = np.stack([shared, np.ones(200), lone, np.full(200, np.nan), np.zeros(200)], axis=1)
    groups = np.repeat(np.arange(40).astype(str), 5).astype(object)
    shares = np.array([True, True, True, True, False])
    a, ones, zeros, nothing, plain = estimates(values, groups, 0, shares)
    apart = estimates(values, np.arange(200).astype(str).astype(object), 0, shares)[0]
    assert a.value == shared.mean()
    assert (a.high - a.low) > 1.7 * (apart.high - apart.low)
    assert (ones.value, ones.high) == (1.0, 1.0)
    assert ones.low == pytest.approx(0.025 ** (1 / 40))
    assert (zeros.value, zeros.low) == (0.0, 0.0)
    assert zeros.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert (plain.low, plain.high) == (0.0, 0.0)


def test_every_place_of_a_thought_has_its_measures() -> None:
    thoughts = pd.DataFrame(
        {"group": list("aaabb"), "k": [0, 1, 2, 0, 1], "back": [-3, -2, -1, -2, -1]}
    )
    values = pd.DataFrame({"step_hit": [1.0, 0.0, np.nan, 1.0, 1.0]})
    entries = measured(thoughts, {("codec", None): values, ("logit", 2): values}, 0)
    assert [(e["at"], e["index"], e["n"]) for e in entries if e["lens"] == "codec"] == [
        ("all", None, 5),
        *(("k", k, n) for k, n in ((0, 2), (1, 2), (2, 1))),
        *(("back", k, n) for k, n in ((-3, 1), (-2, 2), (-1, 2))),
    ]
    found = {(e["layer"], e["at"], e["index"]): e["metrics"]["step_hit"] for e in entries}
    assert found[None, "all", None]["value"] == 0.75
    assert found[None, "all", None]["n"] == 4
    assert found[2, "k", 1]["value"] == 0.5
    assert found[2, "k", 2]["value"] is None


def test_tokens_are_counted_by_the_text_they_distinguish() -> None:
    rank = np.array([[1, 3, 9, 0], [2, 7, 1, 6]])
    owner = np.array([[0, 0, 3, -1], [0, 2, 3, 5]])  # step, answer, foreign step, foreign answer
    found = token_hits(rank, owner, 2)
    assert found["step_hit"].tolist() == [0.5, 1.0]
    assert found["step_rr"].tolist() == pytest.approx([(1 + 1 / 3) / 2, 0.5])
    assert found["step_floor"].tolist() == [0.0, 1.0]
    assert found["step_above"].tolist() == [0.5, 0.0]
    assert found["answer_hit"].iloc[1] == 0.0
    assert found["answer_rr_foreign"].iloc[1] == pytest.approx(1 / 6)
    assert found[["last_step_hit", "last_step_floor"]].isna().all(axis=None)


def test_what_the_draw_changed() -> None:
    truth = {name: ["a", "a", "a", None] for name in ("step", "last_step")}
    foreign = {"foreign_step": ["b"] * 4, "foreign_last_step": [None] * 4}
    thoughts = pd.DataFrame(truth | foreign, dtype=object)
    found = noise_hits(["a", "c", "a", "x"], ["c", "a", "a", "y"], thoughts)
    assert found["changed"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found["mean_only"].tolist()[:3] == [1.0, 0.0, 0.0]
    assert found["thought_only"].tolist()[:3] == [0.0, 1.0, 0.0]
    assert found.loc[3, ["mean_only", "thought_only"]].isna().all()
    hits = text_hits(["a", "b", "c", "a"], thoughts)
    assert hits["step_hit"].tolist()[:3] == [1.0, 0.0, 0.0]
    assert hits["step_floor"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert hits["last_step_floor"].isna().all()


def test_floors_are_of_the_same_world_and_length_and_of_another_group() -> None:
    frame = pd.DataFrame(
        {
            "world": ["w"] * 5 + ["v"],
            "group": ["a", "a", "b", "c", "d", "e"],
            "steps": [["s"] * n for n in (2, 2, 2, 3, 2, 2)],
        }
    )
    seen: dict[int, set[int]] = {i: set() for i in range(6)}
    for seed in range(40):
        for i, other in enumerate(foreign_traces(frame, np.arange(6), seed)):
            seen[i].add(int(other))
    assert seen[0] == {2, 4}
    assert seen[2] == {0, 1, 4}
    assert seen[3] == {0, 1, 2, 4}, "no other has three steps: any of its world"
    assert seen[5] == {-1}


def test_tokens_that_most_texts_have_distinguish_none(
    random_run: tuple[NFCoTReasoner, Run],
) -> None:
    _, run = random_run
    texts = {t for steps in run.traces["steps"] for t in steps} | set(run.traces["answer"])
    letters = {text: [ord(c) for c in text] for text in texts}
    common = common_tokens(run, letters)
    for s in (0, 1):
        assert {ord(c) for c in f"#{s + 1}x+"} <= common["step", "digits", s]
    assert len(common["step", "digits", 0] & {ord(c) for c in "03456789"}) <= 1
    thoughts = thoughts_of(run, np.arange(len(run.traces)), 0, True)
    assert (thoughts["row"] == np.arange(len(run.thoughts))).all()
    assert (
        thoughts["k"] - thoughts["back"] == thoughts.groupby("trace")["k"].transform("size")
    ).all()
    beyond = thoughts["step_index"] >= thoughts["steps"]
    assert (thoughts["step"].isna() == beyond).all()


# --- runs without truth, and refusals ---------------------------------------------------------


def test_a_run_without_steps_says_so(tmp_path: Path) -> None:
    plain = [
        Problem.model_validate(p.model_dump(include={"prompt", "check", "world"}))
        for p in digits(6)
    ]
    reasoner = brief_reasoner()
    result = read_run_through(traced(reasoner, tmp_path / "run", plain), reasoner)
    assert "no trace has reference steps" in " ".join(result.summary["notes"])
    assert metrics(result, "codec")["step_hit"]["value"] is None
    assert metrics(result, "logit", 1)["step_hit"]["value"] is None
    assert metrics(result, "logit", 1)["answer_hit"]["n"] > 0
    assert metrics(result, "mean")["changed"]["value"] is not None
    assert result.summary["population"]["traces_without_steps"] == 6


def test_problems_of_one_group_have_no_floor(tmp_path: Path) -> None:
    one = [p.model_copy(update={"group": "same"}) for p in digits(4)]
    reasoner = brief_reasoner()
    run = traced(reasoner, tmp_path / "run", one)
    result = read_run_through(run, reasoner, Plan(("codec",)))
    assert metrics(result, "codec")["step_floor"]["value"] is None
    assert "4 traces have no floor" in " ".join(result.summary["notes"])


def test_a_codec_of_the_whole_reasoning_has_no_text_of_a_thought(tmp_path: Path) -> None:
    codec = {"d_model": 16, "layers": 1, "heads": 2, "slots": 3, "alignment": "global"}
    reasoner = brief_reasoner(codec={**codec, "max_text_tokens": 6})
    run = traced(reasoner, tmp_path / "run", make_world("digits", "test", 0, 8, (3, 3)))
    for lens in ("codec", "mean"):
        with pytest.raises(UserError, match="encodes the whole reasoning"):
            read_run_through(run, reasoner, Plan(("logit", lens)))
    result = read_run_through(run, reasoner)
    assert result.summary["lenses"] == ["logit"]
    assert "codec and mean lens left out" in result.summary["notes"][0]
    found = metrics(result, "logit", 1)
    assert found["step_hit"]["value"] is None
    assert found["last_step_hit"]["value"] is not None


def test_an_alternating_flow_says_which_thoughts_take_part(tmp_path: Path) -> None:
    reasoner = brief_reasoner(flow={"d_model": 16, "heads": 2, "order": "alternating"})
    run = traced(reasoner, tmp_path / "run", digits(4))
    notes = read_run_through(run, reasoner, Plan(("mean",))).summary["notes"]
    assert any("those after k were drawn knowing u_k" in note for note in notes)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"lenses": ("logit", "tuned")}, "--lens 'tuned'"),
        ({"lenses": ()}, "--lens ''"),
        ({"lenses": ("codec",), "layers": (0,)}, "codec and mean have no layers"),
        ({"top": 0}, "--top 0"),
        ({"n": 0}, "-n 0"),
        ({"layers": (3,)}, "--layers '3': this model has 0"),
        ({"layers": ()}, "--layers ''"),
        ({"top": 10_000}, "vocabulary"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    random_run: tuple[NFCoTReasoner, Run], plan: dict[str, Any], said: str
) -> None:
    reasoner, run = random_run
    with pytest.raises(UserError, match=said):
        read_run_through(run, reasoner, Plan(**plan))


def test_texts_of_the_same_tokens_have_no_measure_and_that_is_said(
    demo: NFCoTReasoner, tmp_path: Path
) -> None:
    problems = make_world("shuffle", "test", 1, 12, (3, 3))
    run = traced(demo, tmp_path / "run", problems)
    result = read_run_through(run, demo, Plan(("logit",), layers=(0,)))
    assert metrics(result, "logit", 0)["step_hit"]["value"] is None
    assert "36 of 36 thoughts have no measure for step" in " ".join(result.summary["notes"])


def test_another_checkpoint_is_refused(random_run: tuple[NFCoTReasoner, Run]) -> None:
    reasoner, run = random_run
    other = NFCoTReasoner(reasoner.model, reasoner.tokenizer, "another")
    with pytest.raises(UserError, match="traced with checkpoint"):
        read_run_through(run, other)
    with pytest.raises(UserError, match="holds no trace"):
        read_trace_through(run, reasoner, "ffff")
    with pytest.raises(UserError, match="leave out --trace"):
        read_trace_through(run, reasoner, run.traces["trace_id"].iat[0], Plan(("affine",)))
    empty = replace(run, traces=run.traces[:0], thoughts=run.thoughts[:0])
    with pytest.raises(UserError, match="no thought to look at"):
        read_run_through(empty, reasoner)


def test_layers_count_from_the_end_too(random_run: tuple[NFCoTReasoner, Run]) -> None:
    reasoner, run = random_run
    result = read_run_through(run, reasoner, Plan(("logit",), layers=(-1, 0, 2), n=4))
    assert result.summary["layers"] == [
        {"layer": 0, "site": "blocks.0.hook_in"},
        {"layer": 2, "site": "blocks.1.hook_out"},
    ]
    assert sorted(set(result.rows["layer"])) == [0, 2]
    again = read_run_through(run, reasoner, Plan(("logit",), layers=(0, 2), n=4))
    assert again.summary["measures"] == result.summary["measures"]


# --- the command ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory, demo: NFCoTReasoner) -> Path:
    path = tmp_path_factory.mktemp("lens-demo") / "run"
    problems = make_world("digits", "test", 7, 8, (2, 4))
    collect(demo, problems, path, tau=0.7, model_path="demo")
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["lens", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_the_command_measures_a_run(
    demo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lens"
    code, text, _ = command(capsys, demo_run, "-o", out, "--top", 3, "--json")
    assert code == 0
    found = json.loads(text)
    assert found["lenses"] == ["logit", "codec", "mean"]
    assert [entry["layer"] for entry in found["layers"]] == [0, 1, 2, 3, 4]
    assert found["population"]["traces"] == 8
    (codec,) = (e for e in found["measures"] if e["lens"] == "codec" and e["at"] == "all")
    assert codec["metrics"]["step_hit"]["value"] == 1.0
    assert codec["metrics"]["codec_round_trip"]["value"] == 1.0
    assert codec["metrics"]["step_floor"]["value"] < 0.3
    stored = json.loads((out / "lens.json").read_text())
    assert stored == {k: v for k, v in found.items() if k != "artifact"}
    rows = pd.read_parquet(out / "rows.parquet")
    assert len(rows) == 7 * found["population"]["thoughts"]
    assert set(rows.loc[rows["lens"] == "logit", "said"].map(len)) == {3}
    shown = command(capsys, demo_run, "-o", out, "--top", 3)
    assert shown[0] == 0, shown[2]
    for words in ("its floor", "distinctive tokens among the top 3", "Readable is not used"):
        assert words in " ".join(shown[1].split())
    code, _, error = command(capsys, demo_run, "-o", out, "--top", 2)
    assert code == 2
    assert "holds what other lenses" in error


def test_the_command_shows_one_trace(
    demo_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    trace = read_run(demo_run).traces.iloc[0]
    code, text, _ = command(capsys, demo_run, "--trace", trace["trace_id"][:6])
    assert code == 0
    for step in trace["steps"]:
        assert text.count(step) >= 3, "mean, thought and truth"
    assert "<thought>" in text
    assert "embeddings" in text
    code, text, _ = command(
        capsys, demo_run, "--trace", trace["trace_id"], "--layers=-1", "--top", 2, "--json"
    )
    found = json.loads(text)
    assert [row["k"] for row in found["thoughts"]] == list(range(trace["K"]))
    for row, step in zip(found["thoughts"], trace["steps"], strict=True):
        assert row["step"] == row["codec"] == step
        (last,) = row["logit"]
        assert last["layer"] == 4
        assert last["top"][0]["probability"] >= last["top"][1]["probability"]
    ends = found["thoughts"][-1]["logit"][0]["top"]
    assert ends[0]["token"] == "</think>", "the decision to stop stands in the last layer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lens", "tuned"), "--lens 'tuned'"),
        (("--layers", "one"), "expected whole numbers"),
        (("--layers", "9"), "this model has 0"),
        (("--trace", "zz"), "holds no trace 'zz'"),
        (("--trace", "", "-n", "3"), "one of the two"),
        (("-n", "0"), "-n 0"),
        (("--model", "nowhere"), "nowhere: no such model folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    demo_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    out = tmp_path / "lens"
    code, text, error = command(capsys, demo_run, *arguments, "-o", out)
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_foreign_folders_and_runs_are_refused(
    demo_run: Path,
    random_run: tuple[NFCoTReasoner, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, error = command(capsys, demo_run, "-o", tmp_path)
    assert code == 2
    assert "is not empty and holds no lens.json" in error
    code, _, error = command(capsys, demo_run, "-o", tmp_path / "mine.txt")
    assert code == 2
    assert "is a file" in error
    code, _, error = command(capsys, random_run[1].path, "--model", "demo")
    assert code == 2
    assert "was traced with" in error
    code, _, error = command(capsys, tmp_path)
    assert code == 2
    assert "is not a run" in error


def test_the_page_s_code_runs(demo_run: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lenses.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("runs/mine", str(demo_run)), names)
    assert names["one"].summary["thoughts"][0]["codec"] == names["run"].traces["steps"][0][0]
    assert len(names["result"].rows) == 2 * len(names["run"].thoughts)
