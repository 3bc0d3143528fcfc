"""One causal stream per problem: `[prompt] <think> u_0 … u_{K-1} </think> [answer]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nfcot_model.tokenizer import TokenIds

__all__ = ["IGNORE", "Layout", "lay_out", "pad_chunks"]

IGNORE = -100


@dataclass(frozen=True)
class Layout:
    """Where does everything stand in a padded batch of streams?

    Thought k of row i stands at column `thought_at[i, k]`; its Gaussian is read from the state
    one column earlier. `targets` names the token that the state at a column must predict. Streams
    that share rows (`training/packing.py`) have a row of `thought_at` and `mask` each, and `rows`
    says in which row of the tokens they stand.
    """

    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T] 1 = real
    position_ids: Tensor  # [B, T]
    thought_at: Tensor  # [B, Kmax] column of each thought, 1 where there is none
    mask: Tensor  # [B, Kmax] bool
    targets: Tensor  # [B, T] answer tokens, IGNORE elsewhere
    rows: Tensor | None = None  # [streams] the packed row each stands in, when rows are shared

    def to(self, device: torch.device | str) -> Layout:
        tensors = {n: t for n, t in vars(self).items() if t is not None}
        return Layout(**{name: tensor.to(device) for name, tensor in tensors.items()})


def lay_out(
    prompts: Sequence[Sequence[int]],
    K: Sequence[int],
    ids: TokenIds,
    *,
    answers: Sequence[Sequence[int]] | None = None,
    reasoning: Sequence[Sequence[int]] | None = None,
    close: bool = True,
    framed: bool = True,
    side: Literal["left", "right"] = "right",
) -> Layout:
    """Lay prompts, K thoughts and optional answers out as one batch of causal streams.

    `reasoning` puts text tokens where thoughts would stand (explicit reasoning; they are
    predicted too). `close` adds `</think>`; answers end with the end-of-text token. Without
    `framed` there is neither `<think>` nor `</think>`. `side` is where the padding goes: left when
    the streams are to be continued.
    """
    streams: list[list[int]] = []
    targets: list[list[int]] = []
    starts: list[int] = []
    for i, prompt in enumerate(prompts):
        stream = [*prompt, ids.think] if framed else [*prompt]
        target = [IGNORE] * len(stream)
        starts.append(len(stream))
        stream += [ids.thought] * K[i]
        target += [IGNORE] * K[i]
        if reasoning is not None:
            target[-1:] = [*reasoning[i], ids.end_think]
            stream += reasoning[i]
        if close and framed:
            stream.append(ids.end_think)
            target.append(IGNORE)
        if answers is not None:
            target[-1:] = [*answers[i], ids.eos]
            stream += answers[i]
        streams.append(stream)
        targets.append(target)
    return _pad(streams, targets, starts, K, ids.pad, side)


def _pad(
    streams: list[list[int]],
    targets: list[list[int]],
    starts: list[int],
    K: Sequence[int],
    pad: int,
    side: str,
) -> Layout:
    width = max(map(len, streams))
    gaps = [width - len(s) for s in streams]
    left = side == "left"

    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor(
            [
                [value] * gap + row if left else row + [value] * gap
                for row, gap in zip(rows, gaps, strict=True)
            ]
        )

    attention = padded([[1] * len(s) for s in streams], 0)
    counts = torch.tensor(list(K))
    places = torch.arange(max(1, int(counts.max())))
    mask = places < counts[:, None]
    offset = torch.tensor([s + (g if left else 0) for s, g in zip(starts, gaps, strict=True)])
    return Layout(
        padded(streams, pad),
        attention,
        (attention.cumsum(-1) - 1).clamp(min=0),
        torch.where(mask, offset[:, None] + places, 1),
        mask,
        padded(targets, IGNORE),
    )


def pad_chunks(chunks: Sequence[Sequence[int]]) -> Tensor:
    """Text chunks as one tensor [N, L], padded behind with -1, as the codec reads them."""
    width = max(1, max(map(len, chunks)))
    return torch.tensor([[*chunk, *([-1] * (width - len(chunk)))] for chunk in chunks])
