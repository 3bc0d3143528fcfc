"""Many smooth functions minimised at once: L-BFGS in its compact form.

Byrd, Nocedal & Schnabel 1994, equation 3.1: the two-loop recursion (Nocedal & Wright 2006, 7.4) as
two triangular solves of the size of the history, so that an iteration costs a few matrix products
however long the history is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import solve_triangular

__all__ = ["minimise"]

HISTORY = 6
ARMIJO = 1e-4
MAX_HALVINGS = 30

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Parameters [b, P] and which functions they belong to [b] -> values [b] and gradients [b, P]."""


def minimise(
    loss: Loss,
    x: Tensor,
    at: tuple[Tensor, Tensor],
    inverse: Tensor,
    unit: Tensor,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """Where is each of B functions least? [B, P]

    x [B, P]: where to start, `at`: values and gradients there; `inverse` [B, P]: a diagonal guess
    of the inverse Hessian; a function is done when no entry of its gradient over `unit` [P] is
    above `tolerance`, or when the precision of the numbers is reached.
    """
    final = x.clone()
    rows = torch.arange(len(x), device=x.device)
    value, gradient = at
    past = _Past.none(x)
    for _ in range(max_iterations):
        open_ = (gradient.abs() / unit).amax(1) > tolerance
        if int(open_.sum()) <= 0.75 * len(rows):
            final[rows] = x
            if not bool(open_.any()):
                return final
            rows, x, inverse = rows[open_], x[open_], inverse[open_]
            value, gradient, past = value[open_], gradient[open_], past.of(open_)
        direction = _direction(gradient, inverse, past)
        slope = _dot(gradient, direction)
        uphill = slope >= 0
        if bool(uphill.any()):
            plain = -gradient * inverse
            direction = torch.where(uphill[:, None], plain, direction)
            slope = torch.where(uphill, _dot(gradient, plain), slope)
        found, there, there_value, there_gradient = _search(loss, rows, x, direction, value, slope)
        past.add(there - x, there_gradient - gradient)
        x, value, gradient = there, there_value, there_gradient
        if not bool(found.any()):
            break
    final[rows] = x
    return final


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


@dataclass
class _Past:
    """The last steps and the changes of the gradient along them, [b, HISTORY, P].

    Slots are filled in turns; `order` names them from the oldest. A pair without positive curvature
    is kept as noughts, which nothing below sees.
    """

    steps: Tensor
    changes: Tensor
    order: list[int]

    @classmethod
    def none(cls, x: Tensor) -> _Past:
        empty = x.new_zeros(len(x), HISTORY, x.shape[1])
        return cls(empty, empty.clone(), [])

    def of(self, rows: Tensor) -> _Past:
        return _Past(self.steps[rows], self.changes[rows], self.order)

    def add(self, step: Tensor, change: Tensor) -> None:
        usable = _dot(step, change) > 1e-12 * step.norm(dim=1) * change.norm(dim=1)
        slot = len(self.order) if len(self.order) < HISTORY else self.order.pop(0)
        self.order.append(slot)
        self.steps[:, slot] = torch.where(usable[:, None], step, 0.0)
        self.changes[:, slot] = torch.where(usable[:, None], change, 0.0)


def _direction(gradient: Tensor, inverse: Tensor, past: _Past) -> Tensor:
    """Downhill by the quasi-Newton guess of the inverse Hessian, [b, P]."""
    m, order = len(past.order), past.order
    if not m:
        return -gradient * inverse
    S, Y = past.steps[:, :m], past.changes[:, :m]
    both = torch.cat([S, Y * inverse[:, None]], 1)
    told = (both @ torch.cat([Y, gradient[:, None]], 1).mT).double()
    (SY, Sg), (YHY, YHg) = (part[:, order].split([m, 1], -1) for part in told.split(m, 1))
    SY, YHY = SY[..., order], YHY[..., order]
    curvature = SY.diagonal(dim1=1, dim2=2)
    last, size = curvature[:, -1], YHY[:, -1, -1]
    fits = (last > 0) & (size > 0)
    gamma = torch.where(fits, last / torch.where(fits, size, 1.0), 1.0)[:, None, None]
    R = SY.triu()
    R.diagonal(dim1=1, dim2=2).copy_(torch.where(curvature > 0, curvature, 1.0))
    p = solve_triangular(R, Sg, upper=True)
    t = curvature[..., None] * p + gamma * (YHY @ p - YHg)
    along = solve_triangular(R.mT, t, upper=False)
    weights = torch.empty_like(told[..., :1])
    weights[:, order], weights[:, [m + slot for slot in order]] = along, -gamma * p
    plain = gamma[..., 0].to(gradient) * inverse * gradient
    return -(plain + (weights.to(gradient).mT @ both)[:, 0])


def _search(
    loss: Loss, rows: Tensor, x: Tensor, direction: Tensor, value: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each step until its function falls enough; those that never do stay where they are."""
    length = torch.ones_like(value)
    slack = 10 * torch.finfo(value.dtype).eps * value.abs()
    for _ in range(MAX_HALVINGS):
        at = x + length[:, None] * direction
        at_value, at_gradient = loss(at, rows)
        falls = at_value <= value + ARMIJO * length * slope + slack
        if bool(falls.all()):
            return falls, at, at_value, at_gradient
        length = torch.where(falls, length, length / 2)
    length = torch.where(falls, length, 0.0)
    at = x + length[:, None] * direction
    return falls, at, *loss(at, rows)
