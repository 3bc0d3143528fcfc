"""Transformers place by place, side by side, give the states of one pass over everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nfcot_model import placewise
from nfcot_model.placewise import Placewise, linear, side_by_side
from nfcot_model.transformer import CausalTransformer

PLACES, ROWS = 21, 5


def random_nets(count: int) -> list[CausalTransformer]:
    torch.manual_seed(count)
    nets = [CausalTransformer(8, 2, 2, PLACES).double() for _ in range(count)]
    for net in nets:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.5)
    return nets


def all_at_once(nets: list[CausalTransformer], x: Tensor) -> Tensor:
    """States [nets, places, rows, d_model], with the last norm's scale and shift."""
    return torch.stack([net(x[i].transpose(0, 1)) for i, net in enumerate(nets)]).transpose(1, 2)


@pytest.mark.parametrize("few", [0, 3, 99])
@pytest.mark.parametrize(("count", "first"), [(1, 1), (1, 4), (3, 1), (2, 10)])
def test_states_are_those_of_one_pass(
    count: int, first: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placewise, "FEW", few)
    nets = random_nets(count)
    x = torch.randn(count, PLACES, ROWS, 8, dtype=torch.float64)
    wanted = all_at_once(nets, x)
    scale, shift = (
        torch.stack([getattr(net.norm, name) for net in nets])[:, None, None]
        for name in ("weight", "bias")
    )
    reading = Placewise(nets)
    parts = [reading.next(x[:, :first])]
    parts += [reading.next(x[:, k : k + 1]) for k in range(first, PLACES)]
    torch.testing.assert_close(torch.cat(parts, dim=1) * scale + shift, wanted)


def test_rows_that_are_kept_go_on_as_if_they_had_been_alone() -> None:
    nets = random_nets(2)
    x = torch.randn(2, PLACES, ROWS, 8, dtype=torch.float64)
    rows = torch.tensor([4, 1])
    some, all_ = Placewise(nets), Placewise(nets)
    for k in range(PLACES):
        if k == 6:
            some.keep(rows)
        states = all_.next(x[:, k : k + 1])
        fed = x[:, k : k + 1, rows] if k >= 6 else x[:, k : k + 1]
        torch.testing.assert_close(some.next(fed), states[:, :, rows] if k >= 6 else states)


def test_maps_side_by_side_are_each_map_behind_its_norm() -> None:
    maps = [nn.Linear(6, 4).double() for _ in range(3)]
    norms = [nn.LayerNorm(6).double() for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(3, ROWS, 6, dtype=torch.float64)
    plain = torch.stack([m(part) for m, part in zip(maps, x, strict=True)])
    torch.testing.assert_close(linear(x, side_by_side(maps)), plain)
    behind = torch.stack([m(n(part)) for m, n, part in zip(maps, norms, x, strict=True)])
    normed = nn.functional.layer_norm(x, (6,))
    torch.testing.assert_close(linear(normed, side_by_side(maps, norms)), behind)
