"""Packing: several streams in one row, so that little is computed on padding.

Positions start again with each stream and no padding mask is given, which is how transformers tells
packed streams apart: its causal masks then keep every stream to itself, whatever the attention.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nfcot_model.layout import IGNORE, Layout

__all__ = ["packed"]


def packed(layout: Layout, length: int) -> Layout:
    """The same streams in fewer rows of at most `length` positions (or of the longest stream).

    `layout` is padded on the right. Thoughts stay a row for each stream, with `rows` saying in
    which packed row it stands; losses are the same as without packing, up to rounding.
    """
    sizes = layout.attention_mask.sum(-1).tolist()
    room = max(length, *sizes)
    bins: list[list[int]] = []
    free: list[int] = []
    for stream in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = next((b for b, left in enumerate(free) if left >= sizes[stream]), None)
        if fits is None:
            bins.append([])
            free.append(room)
            fits = len(bins) - 1
        bins[fits].append(stream)
        free[fits] -= sizes[stream]

    def laid(values: Tensor, filler: int) -> Tensor:
        joined = [torch.cat([values[i, : sizes[i]] for i in members]) for members in bins]
        return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True, padding_value=filler)

    row, offset = [0] * len(sizes), [0] * len(sizes)
    for b, members in enumerate(bins):
        at = 0
        for i in members:
            row[i], offset[i] = b, at
            at += sizes[i]
    device = layout.input_ids.device
    shift = torch.tensor(offset, device=device)[:, None]
    return replace(
        layout,
        input_ids=laid(layout.input_ids, int(layout.input_ids[0, 0])),
        attention_mask=laid(layout.attention_mask, 0),
        position_ids=laid(layout.position_ids, 0),
        thought_at=torch.where(layout.mask, layout.thought_at + shift, 1),
        targets=laid(layout.targets, IGNORE),
        rows=torch.tensor(row, device=device),
    )
