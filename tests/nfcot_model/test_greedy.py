"""The likeliest token found among few is the likeliest of all, whatever the weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from nfcot_model import greedy
from nfcot_model.greedy import likeliest


def normed(n: int, d: int) -> Tensor:
    return functional.layer_norm(torch.randn(n, d, dtype=torch.float64), (d,))


@settings(max_examples=60, deadline=None)
@given(
    d=st.integers(2, 12),
    V=st.integers(1, 60),
    spread=st.floats(0.0, 4.0),
    bias=st.floats(0.0, 20.0),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_token_of_argmax(d: int, V: int, spread: float, bias: float, seed: int) -> None:
    """Norms of the words from alike (no bound decides) to far apart, biases small and large."""
    torch.manual_seed(seed)
    weight = torch.randn(d, V, dtype=torch.float64) * torch.exp(
        spread * torch.randn(V, dtype=torch.float64)
    )
    shift = bias * torch.randn(V, dtype=torch.float64)
    x = normed(7, d)
    token = likeliest(weight, shift)
    assert torch.equal(token(x), (x @ weight + shift).argmax(-1))


def words(asked: list[int], d: int = 6) -> tuple[Tensor, Tensor]:
    """Of 64 words only these are ever likely."""
    torch.manual_seed(0)
    weight = 0.06 / d * torch.randn(d, 64, dtype=torch.float64)
    bias = torch.full((64,), -5.0, dtype=torch.float64)
    weight[:, asked] *= 100
    bias[asked] = 0.0
    return weight, bias


def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many words each product asks, as they come."""
    seen: list[int] = []
    product = torch.addmm

    def counted(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        seen.append(weight.shape[1])
        return product(bias, x, weight)

    monkeypatch.setattr(greedy.torch, "addmm", counted)
    return seen


def test_unlikely_words_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = products(monkeypatch)
    weight, bias = words([3, 11, 40, 41, 42, 50, 60, 63])
    x = normed(50, 6)
    assert torch.equal(likeliest(weight, bias)(x), (x @ weight + bias).argmax(-1))
    assert seen == [8]


def test_all_are_asked_where_the_few_do_not_settle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine likely words, of which eight are asked first; then states that are no numbers."""
    seen = products(monkeypatch)
    weight, bias = words([3, 11, 40, 41, 42, 50, 60, 62, 63])
    x = normed(50, 6)
    token = likeliest(weight, bias)
    assert torch.equal(token(x), (x @ weight + bias).argmax(-1))
    assert seen == [8, 64]
    x[4] = torch.nan
    assert torch.equal(token(x), (x @ weight + bias).argmax(-1))
    assert seen == [8, 64, 8, 64]


def test_in_half_precision_all_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = products(monkeypatch)
    weight, bias = words([3, 11, 40, 41, 42, 50, 60, 63], d=128)
    x = normed(50, 128)
    for dtype, asked in ((torch.float32, [8]), (torch.bfloat16, [8, 64])):
        seen.clear()
        parts = [part.to(dtype) for part in (bias, x, weight)]
        token = likeliest(parts[2], parts[0])(parts[1])
        assert seen == asked
        assert torch.equal(token, torch.addmm(*parts).argmax(-1))


def test_a_tie_goes_to_the_first() -> None:
    weight, bias = torch.zeros(4, 32), torch.zeros(32)
    bias[[9, 20, 30]] = 1.0
    assert likeliest(weight, bias)(normed(3, 4).float()).tolist() == [9, 9, 9]
