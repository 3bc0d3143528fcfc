"""Continuations of prompts read once equal those that read everything again."""

from __future__ import annotations

import pytest
import torch

from nfcot_model.reasoners import KINDS, load_reasoner
from nfcot_model.reasoners.continuing import (
    answer_from,
    answer_logp_from,
    feed_thoughts,
)
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import make_world
from tests.nfcot_model.test_reasoners import expected_thought, tiny
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


def other_kinds() -> list[str]:
    return [kind for kind in KINDS if kind not in ("nfcot", "direct")]


def gated(kind: str):
    """A tiny reasoner of a kind; a looped one leaves early, each row for itself."""
    if kind not in ("looped", "unframed"):
        return tiny(kind)
    reasoner = tiny("looped", loops=4, exit_threshold=0.6, framed=kind == "looped")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(reasoner.model.gate.weight.shape, generator=generator)
        reasoner.model.gate.weight.copy_(3 * weight / weight.shape[-1] ** 0.5)
        reasoner.model.gate.bias.fill_(-1.0)
    return reasoner


@pytest.mark.parametrize("kind", [*other_kinds(), "unframed"])
def test_every_kind_goes_on_from_any_point(kind: str) -> None:
    """With nothing changed the trace comes back, and its answer; thoughts given are answered."""
    reasoner = gated(kind)
    prompts = [p.prompt for p in digits(5)]
    whole = reasoner.think(prompts, tau=0.9, noise_seeds=range(5))
    said = reasoner.answer(prompts, whole)
    noise = reasoner.noise_of(prompts, range(5), 0.9)
    opened = reasoner.open_prompts(prompts)
    index = torch.tensor([3, 0, 3, 4, 1, 2])
    asked = [prompts[i] for i in index.tolist()]
    u, K = whole.u[index], whole.K[index]
    assert kind not in ("looped", "unframed") or len(set(K.tolist())) > 1
    for kept in (torch.zeros_like(K), torch.minimum(torch.tensor([1, 0, 2, 1, 3, 0]), K), K):
        mask = torch.arange(u.shape[1]) < kept[:, None]
        stream = opened.rows(index)
        feed_thoughts(reasoner, stream, u, mask)
        given = stream.rows(torch.arange(6))
        on = reasoner.think_on(stream, noise[index], u, kept)
        assert torch.equal(on.K, K)
        assert torch.equal(on.stopped, whole.stopped[index])
        torch.testing.assert_close(on.u, u[:, : on.u.shape[1]], atol=3e-4, rtol=1e-4)
        assert answer_from(reasoner, stream) == [said[i] for i in index.tolist()]
        if int(kept.min()) < reasoner.least_thoughts:
            continue
        expected = reasoner.answer(asked, Thoughts.given(u, mask))
        assert answer_from(reasoner, given.rows(torch.arange(6))) == expected
        others = [*expected[:3], *expected[:3]]
        logp, greedy = answer_logp_from(reasoner, given.rows(torch.arange(6)), others)
        slow = word_by_word(reasoner, given, others, logp.distributions.shape[1])
        at = logp.mask
        torch.testing.assert_close(logp.distributions[at], slow[at], atol=1e-3, rtol=1e-3)
        assert all(m == e for m, e, g in zip(others, expected, greedy, strict=True) if g)


def word_by_word(reasoner, given, answers: list[str], length: int) -> torch.Tensor:
    """The distributions [B, length, V] along answers, fed one token at a time."""
    given.turn()
    model, found = reasoner.model, []
    rows = [
        [end, *said, *[0] * length]
        for end, said in zip(given.closing.tolist(), reasoner.tokens(answers), strict=True)
    ]
    for place in range(length):
        ids = torch.tensor([[row[place]] for row in rows])
        with torch.no_grad():
            given.extend(model.get_input_embeddings()(ids), torch.ones_like(ids, dtype=torch.bool))
            found.append(model.lm_logits(given.state).log_softmax(-1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("kind", [kind for kind in other_kinds() if kind != "dual"])
def test_thoughts_behind_an_edit_are_those_that_follow_from_it(kind: str) -> None:
    """Each later thought again, in one plain pass over what stands before it, edit and all."""
    reasoner = tiny(kind, seed=4)
    prompts = [p.prompt for p in digits(3)]
    whole = reasoner.think(prompts, tau=0.0, noise_seeds=range(3))
    u = whole.u.clone()
    u[:, 1] = 2 * u[:, 1].roll(1, 0)
    kept = torch.full((3,), 2)
    stream = reasoner.open_prompts(prompts)
    feed_thoughts(reasoner, stream, u, torch.arange(u.shape[1]).expand(3, -1) < 2)
    on = reasoner.think_on(stream, reasoner.noise_of(prompts, range(3), 0.0), u, kept)
    torch.testing.assert_close(on.u[:, :2], u[:, :2])
    later = 0
    for i, prompt in enumerate(prompts):
        for k in range(2, int(on.K[i])):
            before = on.u[i, :k]
            with torch.no_grad():
                if kind == "looped":
                    expected = looped_after(reasoner, prompt, before)
                else:
                    expected = expected_thought(kind, reasoner, prompt, before, u[0, 0])
            torch.testing.assert_close(on.u[i, k], expected, atol=5e-4, rtol=1e-3)
            later += 1
    assert later
    if not reasoner.constant_thoughts:
        assert not torch.allclose(on.u[:, 2], whole.u[:, 2], atol=1e-3)
    assert answer_from(reasoner, stream) == reasoner.answer(prompts, on)


def looped_after(reasoner, prompt: str, before: torch.Tensor) -> torch.Tensor:
    """The state after the next loop, when those at the last place were these."""
    model = reasoner.model
    ids = [*reasoner.tokens([prompt], opening=True)[0], model.ids.think, model.ids.end_think]
    x = model.get_input_embeddings()(torch.tensor([ids]))
    for state in [*before, None]:
        x = model.backbone.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
        if state is not None:
            x[0, -1] = state
    return x[0, -1]


def test_written_tokens_are_drawn_by_the_numbers_of_their_places() -> None:
    reasoner = tiny("text")
    prompts = [p.prompt for p in digits(3)]
    opened, none = reasoner.open_prompts(prompts), torch.zeros(3, dtype=torch.long)
    empty = torch.zeros(3, 0, reasoner.D)

    def written(tau: float) -> torch.Tensor:
        noise = reasoner.noise_of(prompts, range(3), tau)
        return reasoner.think_on(opened.rows(torch.arange(3)), noise, empty, none).u

    for tau in (0.0, 0.7, 3.0):
        assert torch.equal(written(tau), reasoner.think(prompts, tau=tau, noise_seeds=range(3)).u)
    assert written(0.0).shape != written(3.0).shape or not torch.equal(written(0.0), written(3.0))


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
