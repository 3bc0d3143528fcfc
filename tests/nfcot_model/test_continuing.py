"""Continuations of prompts read once equal those that read everything again."""

from __future__ import annotations

import pytest
import torch

from nfcot_model.reasoners import load_reasoner
from nfcot_model.reasoners.continuing import (
    answer_from,
    answer_logp_from,
    feed_thoughts,
)
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import make_world
from tests.tiny import BACKBONES, brief_reasoner, digits, tiny_reasoner


@pytest.mark.parametrize("backbone", BACKBONES)
def test_continuations_equal_whole_passes(backbone: str) -> None:
    reasoner = tiny_reasoner(backbone, seed=2, max_answer_tokens=12)
    prompts = [p.prompt for p in digits(5)]
    noise = draw_noise(range(5), reasoner.max_thoughts, reasoner.D, 0.8)
    whole = reasoner.think(prompts, tau=0.8, noise_seeds=(), noise=noise)
    opened = reasoner.open_prompts(prompts)
    index = torch.tensor([3, 0, 3, 4, 1, 2])  # repeated, and not in order
    kept = torch.minimum(torch.tensor([1, 0, 2, 1, 3, 0]), whole.K[index])
    u = whole.u[index]
    mask = torch.arange(u.shape[1]) < kept[:, None]

    stream = opened.rows(index)
    feed_thoughts(reasoner, stream, u, mask)
    on = reasoner.think_on(stream, noise[index], u, kept)
    assert torch.equal(on.K, whole.K[index])
    torch.testing.assert_close(on.u, whole.u[index][:, : on.u.shape[1]], atol=1e-4, rtol=1e-4)

    asked = [prompts[i] for i in index.tolist()]
    given = Thoughts.given(u, mask)
    expected = reasoner.answer(asked, given)
    stream = opened.rows(index)
    feed_thoughts(reasoner, stream, u, mask)
    assert answer_from(reasoner, stream) == expected

    others = [*expected[:3], *expected[:3]]
    stream = opened.rows(index)
    feed_thoughts(reasoner, stream, u, mask)
    found, greedy = answer_logp_from(reasoner, stream, others)
    wanted = reasoner.answer_logp(asked, given, others)
    torch.testing.assert_close(found.logp, wanted.logp, atol=1e-3, rtol=1e-4)
    assert torch.equal(found.mask, wanted.mask)
    at = found.mask
    torch.testing.assert_close(
        found.distributions[at], wanted.distributions[at], atol=1e-3, rtol=1e-3
    )
    assert all(m == e for m, e, g in zip(others, expected, greedy, strict=True) if g)


def test_the_greedy_answer_is_recognised_in_one_pass() -> None:
    reasoner = load_reasoner("demo")
    problems = make_world("digits", "test", 3, 12, (2, 3))
    prompts = [p.prompt for p in problems]
    thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=range(12))
    answers = reasoner.answer(prompts, thoughts)
    opened = reasoner.open_prompts(prompts)
    for said, same in ((answers, True), (answers[1:] + answers[:1], False)):
        stream = opened.rows(torch.arange(12))
        feed_thoughts(reasoner, stream, thoughts.u, thoughts.mask)
        _, greedy = answer_logp_from(reasoner, stream, said)
        wanted = [same or a == b for a, b in zip(said, answers, strict=True)]
        assert greedy.tolist() == wanted


def test_an_opened_stream_is_left_as_it_was() -> None:
    reasoner = brief_reasoner()
    opened = reasoner.open_prompts([p.prompt for p in digits(3)])
    before = opened.state.clone(), opened.attention.shape
    first = answer_from(reasoner, opened.rows(torch.tensor([0, 1, 2])))
    assert torch.equal(opened.state, before[0])
    assert opened.attention.shape == before[1]
    assert answer_from(reasoner, opened.rows(torch.tensor([2, 1, 0]))) == first[::-1]
