"""The traces of a run as padded batches for a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nfcot_model.traces import Run

__all__ = ["BATCH", "Batch", "batches"]

BATCH = 32


@dataclass(frozen=True)
class Batch:
    """Some traces of a run, mixed K.

    `mask` [B, K]; `tensors` [B, K, D], 0 where there is no thought; `rows`: where these thoughts,
    in the order of the mask, stand in the frame they were asked with.
    """

    prompts: list[str]
    mask: Tensor
    tensors: dict[str, Tensor]
    rows: slice


def batches(run: Run, thoughts: pd.DataFrame, names: Sequence[str]) -> Iterator[Batch]:
    """The traces of `thoughts` (`thoughts_of`), in its order, with the run's tensors `names`."""
    whole = {name: torch.from_numpy(run.tensor(name)) for name in names}
    counts = thoughts.groupby("trace", sort=False).size()
    stop = 0
    for first in range(0, len(counts), BATCH):
        part = counts.iloc[first : first + BATCH]
        rows = slice(stop, stop := stop + int(part.sum()))
        stored = torch.tensor(thoughts["row"].to_numpy()[rows])
        K = torch.tensor(part.tolist())
        mask = torch.arange(int(K.max())) < K[:, None]
        tensors = {}
        for name, values in whole.items():
            tensors[name] = torch.zeros(*mask.shape, values.shape[-1])
            tensors[name][mask] = values[stored]
        prompts = [run.traces["prompt"].iat[i] for i in part.index]
        yield Batch(prompts, mask, tensors, rows)
