"""A probe over all thoughts of a trace that learns which of them to read. Trained by gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from probes.weights import Weights

__all__ = ["ATTENTION", "PENALTIES", "fit_attention"]

ATTENTION = "attention"
PENALTIES = (1e-1, 1e-2, 1e-3)
MOST_STEPS = 200


def fit_attention(
    thoughts: Sequence[NDArray[np.floating]],
    y: NDArray[np.int64] | NDArray[np.float64],
    kind: str,
    classes: int,
    penalty: float,
    seed: int,
) -> Weights:
    """Which query and readout predict y [n] best from the thoughts, n times [K, D]?

    Minimises mean loss + penalty * (|query|^2 + |coef|^2), numbers standardised, by L-BFGS from a
    small random query. Not convex: another seed may end elsewhere. K may differ; a mask keeps
    absent thoughts out. What the attention weighs most is what this probe reads, not what the model
    uses.
    """
    rows = np.concatenate(thoughts).astype(np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    scale[scale <= 1e-12 * (np.abs(mean) + 1)] = 1.0
    K = torch.tensor([len(t) for t in thoughts])
    mask = torch.arange(int(K.max())) < K[:, None]
    X = torch.zeros(*mask.shape, rows.shape[1], dtype=torch.float64)
    X[mask] = torch.from_numpy((rows - mean) / scale)
    middle, spread = (
        (float(y.mean()), float(np.std(y, dtype=np.float64)) or 1.0)
        if kind == "number"
        else (0.0, 1.0)
    )
    target = torch.from_numpy((y - middle) / spread if kind == "number" else y)
    outputs = classes if kind == "multiclass" else 1
    generator = torch.Generator().manual_seed(seed)
    D = X.shape[-1]
    query = torch.randn(D, generator=generator, dtype=torch.float64) / D
    coef = torch.zeros(outputs, D, dtype=torch.float64)
    intercept = torch.zeros(outputs, dtype=torch.float64)
    parameters = [p.requires_grad_() for p in (query, coef, intercept)]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=MOST_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        attention = (X @ query).masked_fill(~mask, -torch.inf).softmax(-1)
        told = torch.einsum("nk,nkd->nd", attention, X) @ coef.T + intercept
        loss = _loss(kind, told, target) + penalty * (query.square().sum() + coef.square().sum())
        loss.backward()
        return loss

    optimiser.step(closure)
    q, w, b = (p.detach().numpy() for p in parameters)
    return Weights(mean, scale, w * spread, b * spread + middle, q)


def _loss(kind: str, told: Tensor, target: Tensor) -> Tensor:
    if kind == "binary":
        return binary_cross_entropy_with_logits(told[:, 0], target.to(told))
    if kind == "multiclass":
        return cross_entropy(told, target)
    return mse_loss(told[:, 0], target.to(told))
