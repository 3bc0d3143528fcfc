"""Whoever listens to thinking hears every thought, changes none, and can end a row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.reasoners.continuing import feed_thoughts
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import NewThoughts, Thoughts
from tests.tiny import BACKBONES, digits, tiny_reasoner

FIELDS = ("u", "eps", "mu", "log_sigma")


def heard_by(said: list[NewThoughts], K: int) -> dict[str, Tensor]:
    """What was told, put back into batches [B, K, ...]."""
    B = len(said[0].k)
    out = {name: torch.zeros(B, K, said[0].u.shape[-1]) for name in FIELDS}
    out["mask"] = torch.zeros(B, K, dtype=torch.bool)
    for new in said:
        rows = new.alive.nonzero()[:, 0]
        assert not out["mask"][rows, new.k[rows]].any()
        out["mask"][rows, new.k[rows]] = True
        for name in FIELDS:
            value = getattr(new, name)
            assert (value[~new.alive] == 0).all()
            out[name][rows, new.k[rows]] = value[rows]
    return out


def think(reasoner: NFCoTReasoner, n: int = 6, **more) -> Thoughts:
    prompts = [p.prompt for p in digits(n)]
    return reasoner.think(prompts, tau=0.8, noise_seeds=range(n), **more)


def assert_identical(a: Thoughts, b: Thoughts) -> None:
    for name in Thoughts.__dataclass_fields__:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("hidden", [False, True])
def test_listening_changes_no_bit_and_hears_everything(backbone: str, hidden: bool) -> None:
    reasoner = tiny_reasoner(backbone, seed=3)
    silent = think(reasoner)
    assert len(set(silent.K.tolist())) > 1  # ragged, or the test shows little
    said: list[NewThoughts] = []
    assert_identical(silent, think(reasoner, on_thought=said.append, hidden=hidden))
    heard = heard_by(said, silent.mask.shape[1])
    for name in (*FIELDS, "mask"):
        assert torch.equal(heard[name], getattr(silent, name)), name


def test_states_are_those_of_the_scoring_pass() -> None:
    reasoner = tiny_reasoner(seed=3)
    said: list[NewThoughts] = []
    thoughts = think(reasoner, on_thought=said.append, hidden=True)
    prompts = [p.prompt for p in digits(6)]
    scored = reasoner.score(prompts, thoughts, tau=0.8, hidden=True).hidden
    assert scored is not None
    for k, new in enumerate(said):
        assert new.hidden is not None
        torch.testing.assert_close(
            new.hidden[new.alive], scored[new.alive, :, k], atol=1e-4, rtol=1e-4
        )
    assert all(s.hidden is None for s in _heard(reasoner))


def _heard(reasoner: NFCoTReasoner) -> list[NewThoughts]:
    said: list[NewThoughts] = []
    think(reasoner, on_thought=said.append)
    return said


@pytest.mark.parametrize("fixed", [False, True])
def test_rows_that_are_ended_keep_their_thoughts_and_disturb_nobody(fixed: bool) -> None:
    config = {"codec": {"alignment": "global", "slots": 4, "d_model": 16, "heads": 2, "layers": 1}}
    reasoner = tiny_reasoner(seed=3, **(config if fixed else {}))
    free = think(reasoner)
    row = int(free.K.argmax())
    assert free.K[row] >= 2

    def end(new: NewThoughts) -> Tensor:
        return (torch.arange(len(new.k)) == row) & (new.k >= 1)

    cut = think(reasoner, on_thought=end)
    others = torch.arange(len(free)) != row
    assert torch.equal(cut.K[others], free.K[others])
    assert torch.equal(cut.stopped[others], free.stopped[others])
    assert cut.K[row] == 2
    assert not cut.stopped[row]
    width = cut.mask.shape[1]
    keep = cut.mask[..., None]
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(cut, name), getattr(free, name)[:, :width] * keep, atol=1e-5, rtol=1e-5
        )
    if fixed:
        with pytest.raises(UserError, match="2 thoughts are no whole steps of 4"):
            reasoner.decode(cut)


def test_it_hears_only_what_is_thought_after_given_thoughts() -> None:
    reasoner = tiny_reasoner(seed=3)
    prompts = [p.prompt for p in digits(6)]
    whole = think(reasoner)
    kept = torch.minimum(torch.tensor([1, 0, 2, 1, 3, 0]), whole.K)
    noise = draw_noise(range(6), reasoner.max_thoughts, reasoner.D, 0.8)
    mask = torch.arange(whole.u.shape[1]) < kept[:, None]
    stream = reasoner.open_prompts(prompts)
    feed_thoughts(reasoner, stream, whole.u, mask)
    said: list[NewThoughts] = []
    on = reasoner.think_on(stream, noise, whole.u, kept, on_thought=said.append)
    heard = heard_by(said, on.mask.shape[1])
    assert torch.equal(heard["mask"], on.mask & ~mask[:, : on.mask.shape[1]])


def test_a_stop_of_another_shape_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"on_thought returned \(1,\), expected \[B\]"):
        think(tiny_reasoner(), on_thought=lambda new: torch.tensor([True]))
