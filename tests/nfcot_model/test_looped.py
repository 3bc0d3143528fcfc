"""Looping: exits by the gate, each row for itself, and nothing is computed behind an exit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nfcot_model.looping import exit_distribution, gate_loss, loop_loss, loop_states
from nfcot_model.training.baselines import _direct_layout
from nfcot_model.worlds import make_world
from tests.tiny import tiny_baseline

PROBLEMS = make_world("digits", "test", 1, 6, steps=(1, 5))
PROMPTS = [p.prompt for p in PROBLEMS]


def looped(threshold: float = 1.0, loops: int = 4, spread: float = 3.0):
    """A random looped reasoner whose gate differs from prompt to prompt."""
    reasoner = tiny_baseline("looped", loops=loops, exit_threshold=threshold)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = torch.randn(reasoner.model.gate.weight.shape, generator=generator)
        reasoner.model.gate.weight.copy_(spread * weight / weight.shape[-1] ** 0.5)
        reasoner.model.gate.bias.fill_(-1.0)
    return reasoner


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_exits_are_a_distribution_and_the_rest_goes_to_the_last_loop(gates: list[float]) -> None:
    p = exit_distribution(torch.tensor(gates, dtype=torch.float64)[:, None]).exp()[:, 0]
    leave = torch.sigmoid(torch.tensor(gates, dtype=torch.float64))
    expected, left = [], 1.0
    for value in leave[:-1].tolist():
        expected.append(left * value)
        left *= 1 - value
    assert p.tolist() == pytest.approx([*expected, left], abs=1e-9)
    assert float(p.sum()) == pytest.approx(1.0)


def test_the_gate_decides_row_by_row_and_the_exit_is_q() -> None:
    everything = looped(1.0)
    whole = everything.think(PROMPTS, tau=0.0, noise_seeds=[])
    assert whole.K.tolist() == [4] * 6
    for q in (0.3, 0.6, 0.9):
        early = looped(q)
        thoughts = early.think(PROMPTS, tau=0.0, noise_seeds=[])
        gates = early.model.gate_logit(whole.u).detach()
        left = 1 - torch.sigmoid(-gates).cumprod(-1)
        left[:, -1] = 1.0
        expected = (left >= q).int().argmax(-1) + 1
        assert thoughts.K.tolist() == expected.tolist()
        assert thoughts.stopped.all()
        K = thoughts.u.shape[1]
        torch.testing.assert_close(
            thoughts.u, whole.u[:, :K] * thoughts.mask[..., None], atol=1e-4, rtol=1e-4
        )
    assert len(set(looped(0.6).think(PROMPTS, tau=0.0, noise_seeds=[]).K.tolist())) > 1


def test_an_early_exit_answers_as_the_shallower_model_and_computes_less() -> None:
    early = looped(0.6)
    thoughts = early.think(PROMPTS, tau=0.0, noise_seeds=[])
    rows: list[int] = []
    hook = early.model.backbone.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    answers = early.answer(PROMPTS, thoughts)
    hook.remove()
    passes = early.model.config.max_answer_tokens + 1
    assert sum(rows) <= passes * int(thoughts.K.sum())
    assert sum(rows[: int(thoughts.K.max())]) == int(thoughts.K.sum()) < 4 * len(PROMPTS)
    for i, K in enumerate(thoughts.K.tolist()):
        shallow = looped(1.0, loops=K)
        own = shallow.think([PROMPTS[i]], tau=0.0, noise_seeds=[])
        assert shallow.answer([PROMPTS[i]], own) == [answers[i]]


def test_given_thoughts_take_the_place_of_states() -> None:
    reasoner = looped()
    own = reasoner.think(PROMPTS, tau=0.0, noise_seeds=[])
    natural = reasoner.answer(PROMPTS, own)
    donated = replace(own, u=own.u.roll(1, 0))
    _, scores = reasoner.answer_scored(PROMPTS, donated, tau=1.0, hidden=True)
    torch.testing.assert_close(scores.hidden[:, -1], donated.u)
    assert reasoner.answer(PROMPTS, replace(own, u=own.u + 0.0)) == natural
    assert reasoner.answer(PROMPTS, replace(own, u=3 * torch.randn_like(own.u))) != natural


def test_every_loop_can_be_read_out() -> None:
    reasoner = looped()
    thoughts = reasoner.think(PROMPTS, tau=0.0, noise_seeds=[])
    texts = reasoner.decode(thoughts).texts
    assert [len(row) for row in texts] == thoughts.K.tolist()
    first = [row[-1] for row in texts]
    for text, answer in zip(first, reasoner.answer(PROMPTS, thoughts), strict=True):
        assert text in ("<eos>", "<pad>") or text.startswith("<") or answer.startswith(text)


def test_the_losses_are_those_of_the_paper() -> None:
    reasoner = looped(loops=3)
    model = reasoner.model
    layout = _direct_layout(reasoner, PROBLEMS)
    states = loop_states(model, layout)
    assert len(states) == 3
    chosen = layout.targets >= 0
    ce = torch.stack(
        [
            functional.cross_entropy(
                model.lm_logits(h[chosen]), layout.targets[chosen], reduction="none"
            )
            for h in states
        ]
    )
    leave = torch.sigmoid(torch.stack([model.gate_logit(h[chosen]) for h in states]))
    p = torch.stack([leave[0], (1 - leave[0]) * leave[1], (1 - leave[0]) * (1 - leave[1])])
    entropy = -(p * p.log()).sum(0).mean()
    found = loop_loss(model, states, layout.targets, 0.1)
    torch.testing.assert_close(found["loss"], (p * ce).sum(0).mean() - 0.1 * entropy)
    torch.testing.assert_close(found["entropy"], entropy)
    gain = (ce[:-1] - ce[1:]).clamp(min=0).detach()
    target = torch.sigmoid(50 * (gain - 0.005))
    stay = 1 - leave[1:]
    bce = -(target * stay.log() + (1 - target) * (1 - stay).log()).sum(0).mean() / 3
    second = gate_loss(model, states, layout.targets)["loss"]
    torch.testing.assert_close(second, bce, atol=1e-5, rtol=1e-4)
    second.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"gate.weight", "gate.bias"}
