"""The likeliest token of a state, without asking every token of the vocabulary.

A normed state has length at most √d, so no logit can exceed `√d ‖w‖ + b` (Cauchy and Schwarz).
Where the best of the few tokens with the highest bounds is beyond the bounds of all others, it is
the best of all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["likeliest"]

ASKED = 8  # one of so many tokens is asked first


def likeliest(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that gives the token [N] with the highest logit for normed states x [N, d].

    `weight` [d, V] and `bias` [V] as they are now, those behind a norm without scale and shift
    (`placewise.side_by_side`). The token is that of `argmax`, to rounding of the logits: all are
    computed wherever a state could have its best token among those not asked first. In half
    precision that is nearly everywhere, so wide is its rounding.
    """
    d, V = weight.shape
    bounds = weight.norm(dim=0) * d**0.5 + bias
    asked = bounds.topk(max(1, V // ASKED)).indices.sort().values  # a tie goes to the first, too
    rounding = d * torch.finfo(weight.dtype).eps * bounds.abs().max()
    others = bounds.index_fill(0, asked, -torch.inf).max() + rounding
    few, few_bias = weight[:, asked], bias[asked]

    def token(x: Tensor) -> Tensor:
        best, at = torch.addmm(few_bias, x, few).max(-1)
        if bool((best > others).all()):
            return asked[at]
        return torch.addmm(bias, x, weight).argmax(-1)

    return token
