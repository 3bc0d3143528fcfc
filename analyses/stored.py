"""The thoughts of a run as a batch again, some of its traces or all."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run
from nfcot_model.traces.schema import OWN_SCORER

__all__ = ["refuse_unscored", "stored_thoughts"]

PARTS = ("u", "eps", "mu", "log_sigma")


def refuse_unscored(run: Run) -> None:
    """Raise UserError for a run without a thought, or whose model gives thoughts no density."""
    if not len(run.thoughts):
        raise UserError(f"{run.path}: holds no thought; trace some problems into it")
    if run.scorer != OWN_SCORER:
        raise UserError(
            f"{run.path}: '{run.manifest['reasoner']}' thoughts have no density of their own model"
            f" (scorer: {run.scorer}), which this needs; give a run of an NF-CoT model"
        )


def stored_thoughts(run: Run, rows: NDArray[np.int64] | None = None) -> Thoughts:
    """Thoughts of the traces at these rows of `run.traces` (None: all), as they were stored."""
    K = run.traces["K"].to_numpy(dtype=np.int64)
    first = np.cumsum(K) - K
    chosen = np.arange(len(K)) if rows is None else np.asarray(rows)
    counts = torch.from_numpy(K[chosen])
    mask = torch.arange(max(1, int(counts.max()))) < counts[:, None]
    places = torch.from_numpy(first[chosen])[:, None] + torch.arange(mask.shape[1])
    flat = places[mask].numpy()

    def padded(name: str) -> Tensor:
        values = torch.zeros(*mask.shape, run.D)
        values[mask] = torch.from_numpy(run.tensor(name)[flat])
        return values

    stopped = torch.tensor(run.traces["stopped"].to_numpy(dtype=bool)[chosen])
    u, eps, mu, log_sigma = map(padded, PARTS)
    return Thoughts(u, eps, mu, log_sigma, mask, stopped)
