"""L2 logistic regression for many labellings and penalties of the same rows.

L-BFGS on all of them at once (`probes.solvers.quasi_newton`), started from the curvature of the
loss where all weights are zero, which is diagonal in the coordinates of a `Design`: p(1-p) times
the features' variance. A fit then takes some ten passes over the rows, and the passes of all fits
are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probes.solvers.design import Design
from probes.solvers.linear import Linear
from probes.solvers.quasi_newton import minimise

__all__ = ["fit_logistic"]

# Below this share of the loss without weights, classes are told apart well.
STRONG = 0.8
# Elements of the largest intermediate (rows x fits x classes); more fits are taken in turns.
MOST_ELEMENTS = 6_000_000


def fit_logistic(
    design: Design,
    y: Tensor,
    C: Tensor,
    classes: int,
    tolerance: float | None = None,
    max_iterations: int = 500,
    start: tuple[Tensor, Tensor] | None = None,
) -> Linear:
    """Which weights minimise `C * sum of log-losses + |w|^2 / 2`, for B labellings?

    y: [B, n] class indices below `classes`; C: [B], the strength of scikit-learn's
    LogisticRegression, whose objective and stopping rule these are: the largest gradient of the
    mean loss, per standard deviation of a direction, is below `tolerance` (None: 1e-4 in single
    precision, as there, and 1e-7 in double).
    The intercept is not penalised. Two classes have one output, more have one each. A class without
    a row gets a very low intercept rather than none. `start`: fits of similar rows, as weights on
    standardised features [D, B, C] and intercepts [B, C] (`Linear.on_features`).
    """
    if tolerance is None:
        tolerance = 1e-4 if design.U.dtype == torch.float32 else 1e-7
    outputs = 1 if classes == 2 else classes
    most = max(1, MOST_ELEMENTS // max(1, y.shape[1] * outputs))
    parts = []
    for some in torch.arange(len(y), device=y.device).split(most):
        loss = _Loss(design, y[some], C.to(design.U)[some], classes)
        beta = loss.start()
        if start is not None:
            beta[..., :-1] = torch.einsum("dr,dbc->bcr", design.basis, start[0][:, some])
            beta[..., -1] = start[1][some]
        parts.append(_fitted(loss, beta, tolerance, max_iterations))
    return Linear.joined(parts)


def _fitted(loss: _Loss, beta: Tensor, tolerance: float, max_iterations: int) -> Linear:
    x = beta.flatten(1)
    value, gradient = loss(x, torch.arange(len(x), device=x.device))
    inverse = 1 / loss.curvature(torch.zeros_like(value))
    within_reach = value - 0.5 * (gradient.square() * inverse).sum(1)
    inverse = 1 / loss.curvature(within_reach < STRONG * loss.entropy())
    x = minimise(loss, x, (value, gradient), inverse, loss.unit(), tolerance, max_iterations)
    found = x.view_as(beta)
    return Linear(found[..., :-1].permute(2, 0, 1).contiguous(), found[..., -1].contiguous())


@dataclass
class _Loss:
    """The mean log-loss of B fits with its penalty; parameters [B, C, r + 1], intercepts last.

    Rows come last in everything that has them: so many fits of few classes are fast products too.
    """

    design: Design
    y: Tensor
    strength: Tensor
    classes: int

    def __post_init__(self) -> None:
        n = self.y.shape[1]
        self.penalty = (1 / (self.strength * n))[:, None, None]
        counts = torch.stack([(self.y == c).sum(1) for c in range(self.classes)], -1) / n
        self.share = (counts[:, 1:] if self.classes == 2 else counts).to(self.design.U)  # [B, C]

    def entropy(self) -> Tensor:
        """The loss without any weights, [B]."""
        share = torch.cat([1 - self.share, self.share], -1) if self.classes == 2 else self.share
        return torch.special.entr(share).sum(-1)

    def start(self) -> Tensor:
        """No weights, and the intercepts that give each class its share of rows."""
        U = self.design.U
        share = self.share.clamp(min=1e-3 / len(U), max=1 - 1e-3 / len(U))
        beta = U.new_zeros(*share.shape, U.shape[1] + 1)
        beta[..., -1] = share.logit() if self.classes == 2 else share.log()
        if self.classes > 2:
            beta[..., -1] -= beta[..., -1].mean(-1, keepdim=True)
        return beta

    def unit(self) -> Tensor:
        """How large is a gradient of one? [C (r + 1)]: larger where a direction joins features."""
        variance = torch.cat([self.design.variance, self.design.variance.new_ones(1)])
        return variance.clamp(min=1.0).sqrt().repeat(self.share.shape[1])

    def curvature(self, flat: Tensor) -> Tensor:
        """The diagonal of the Hessian where all weights are zero, [B, C (r + 1)].

        Of fits that are `flat` [B], the average over directions is added: where classes are told
        apart well, most rows have no curvature left, and least where variance is small.
        """
        spread = (self.share * (1 - self.share)).clamp(min=1e-3)
        average = self.design.variance.sum() / max(1, len(self.design.variance))
        variance = self.design.variance + flat.to(spread)[:, None] * average
        variance = torch.cat([variance, variance.new_ones(len(variance), 1)], 1)
        diagonal = spread[..., None] * variance[:, None]
        diagonal[..., :-1] += self.penalty
        return diagonal.flatten(1)

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [b] and gradient [b, C (r + 1)] of the fits `rows` at x [b, C (r + 1)]."""
        U, n = self.design.U, len(self.design.U)
        b, C, r = len(x), self.share.shape[1], U.shape[1]
        beta = x.view(b, C, r + 1)
        weights = beta[..., :-1]
        z = torch.addmm(beta[..., -1].reshape(-1, 1), weights.reshape(b * C, r), U.T)
        labels = self.y if b == len(self.y) else self.y[rows]
        loss, residual = (_binary if self.classes == 2 else _multinomial)(z.view(b, C, n), labels)
        penalty = self.penalty[rows]
        gradient = torch.empty_like(beta)
        gradient[..., :-1] = (residual.view(b * C, n) @ U).view(b, C, r) / n + penalty * weights
        gradient[..., -1] = residual.sum(-1) / n
        size = weights.square().sum((1, 2))
        return loss / n + 0.5 * penalty[:, 0, 0] * size, gradient.flatten(1)


def _binary(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed log-losses [b] and their derivatives by z [b, 1, n]; z is used up."""
    y = labels.to(z)[:, None]
    loss = (softplus(z) - y * z).sum((1, 2))
    return loss, z.sigmoid_().sub_(y)


def _multinomial(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same of logits [b, C, n]."""
    index = labels[:, None]
    z -= z.amax(1, keepdim=True)
    own = z.gather(1, index)[:, 0]
    p = z.exp_()
    total = p.sum(1, keepdim=True)
    loss = (total[:, 0].log() - own).sum(1)
    p /= total
    p.scatter_add_(1, index, p.new_full((), -1.0).expand(index.shape))
    return loss, p
