"""A cache of fixed size and a compiled step give the thoughts and answers of the growing one."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from nfcot_model import sampling
from nfcot_model.errors import UserError
from nfcot_model.stepping import GROUPED, ROOM, grouped_attention, static_cache, step_of
from tests.tiny import BACKBONES, digits, tiny_reasoner

PROMPTS = [p.prompt for p in digits(5)]
SEEDS = list(range(5))


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_thinking_on_a_fixed_cache_is_the_same(backbone: str, tau: float) -> None:
    reasoner = tiny_reasoner(backbone)
    grown = reasoner.think(PROMPTS, tau=tau, noise_seeds=SEEDS)
    answers = reasoner.answer(PROMPTS, grown)
    reasoner.stepping = "static"
    fixed = reasoner.think(PROMPTS, tau=tau, noise_seeds=SEEDS)
    assert fixed.K.tolist() == grown.K.tolist()
    assert fixed.stopped.tolist() == grown.stopped.tolist()
    for name in ("u", "mu", "log_sigma"):
        torch.testing.assert_close(getattr(fixed, name), getattr(grown, name), atol=1e-4, rtol=1e-4)
    assert reasoner.answer(PROMPTS, fixed) == answers
    said, scores = reasoner.answer_scored(PROMPTS, grown, tau=1.0)
    assert said == answers
    torch.testing.assert_close(scores.logp, reasoner.score(PROMPTS, grown, tau=1.0).logp)


def test_a_compiled_step_is_traced_once_for_thoughts_and_answers(monkeypatch) -> None:
    """On the CPU by the tracer alone, which has to see one graph without breaks."""
    reasoner = tiny_reasoner()
    grown = reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS)
    answers = reasoner.answer(PROMPTS, grown)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(
        sampling, "step_of", lambda stepping, batch: step_of(stepping, batch, "eager")
    )
    reasoner.stepping = "compiled"
    for _ in range(2):
        fixed = reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS)
        torch.testing.assert_close(fixed.u, grown.u, atol=1e-4, rtol=1e-4)
        assert reasoner.answer(PROMPTS, fixed) == answers
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_states_are_heard_on_a_fixed_cache_too() -> None:
    reasoner = tiny_reasoner()
    heard: list[list[torch.Tensor]] = [[], []]
    for stepping, states in zip(("growing", "static"), heard, strict=True):
        reasoner.stepping = stepping

        def listen(new, states=states):
            states.append(torch.stack(list(new.hidden)))

        reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS, on_thought=listen, hidden=True)
    assert len(heard[0]) == len(heard[1]) > 0
    for one, other in zip(*heard, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 3])
def test_shared_keys_are_read_as_by_sdpa(shared: int, n: int) -> None:
    torch.manual_seed(shared)
    module = torch.nn.Module()
    module.num_key_value_groups = 4 // shared
    query = torch.randn(2, 4, n, 8)
    key, value = torch.randn(2, 2, shared, 10, 8).unbind()
    mask = torch.rand(2, 1, n, 10) > 0.4
    mask[1, 0, 0] = False
    mask[1, 0, 0, 3] = True
    read, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(read, expected)
    if n == 1:
        alone = value[1].repeat_interleave(4 // shared, 0)[:, 3]
        torch.testing.assert_close(read[1, 0], alone)


@pytest.mark.parametrize("backbone", ["qwen3", "gpt2"])
def test_stepping_leaves_the_model_as_it_was(backbone: str, monkeypatch) -> None:
    reasoner = tiny_reasoner(backbone)
    config = reasoner.model.backbone.config
    grown = reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS)
    reasoner.stepping = "static"
    used = []
    forward = type(reasoner.model.backbone.base_model).forward
    monkeypatch.setattr(
        type(reasoner.model.backbone.base_model),
        "forward",
        lambda *a, **k: (used.append(config._attn_implementation), forward(*a, **k))[1],
    )
    reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS)
    assert set(used) == {"sdpa", GROUPED if backbone == "qwen3" else "sdpa"}
    assert config._attn_implementation == "sdpa"
    reasoner.stepping = "growing"
    assert torch.equal(reasoner.think(PROMPTS, tau=0.7, noise_seeds=SEEDS).u, grown.u)


def test_a_cache_is_used_again_only_when_its_holder_is_gone() -> None:
    backbone = tiny_reasoner().model.backbone

    class Holder:
        pass

    first, second = Holder(), Holder()
    cache, size = static_cache(backbone, 2, ROOM + 1, first)
    assert size == 2 * ROOM
    other, _ = static_cache(backbone, 2, ROOM + 1, second)
    assert other is not cache
    del first, second
    again, _ = static_cache(backbone, 2, 2 * ROOM, Holder())
    assert again is other
    assert static_cache(backbone, 3, 2 * ROOM, Holder())[0] is not again


def test_an_unknown_way_of_stepping_is_refused() -> None:
    reasoner = tiny_reasoner()
    reasoner.stepping = "quick"  # type: ignore[assignment]
    with pytest.raises(UserError, match="stepping 'quick': choose one of growing, static, compil"):
        reasoner.think(PROMPTS, tau=0.0, noise_seeds=SEEDS)


def test_the_performance_benchmark_runs_in_the_small(monkeypatch, capsys) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "performance.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke", "--device", "cpu", "--repeats", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    machine, *rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert machine["smoke"]
    assert machine["copy_gb_per_second"] > 0
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["thought_limit_ms"] < row["token_limit_ms"], "a token needs the vocabulary too"
        assert row["thought_share_of_bandwidth"] == pytest.approx(
            row["thought_limit_ms"] / row["thought_ms"]
        )
        assert [answer["answer"] for answer in row["answers"]] == [4, 6]
        for said in row["answers"]:
            assert said["times_faster"] == pytest.approx(
                said["write_and_answer_s"] / said["think_and_answer_s"]
            )
            assert said["times_fewer_steps"] == (12 + said["answer"]) / (4 + said["answer"])
