"""L2 logistic regression for many labellings and penalties of the same rows.

Quasi-Newton (L-BFGS; Nocedal & Wright 2006, algorithm 7.4) on all of them at once, started from the
curvature of the loss where all weights are zero, which is diagonal in the coordinates of a
`Design`: p(1-p) times the features' variance. A fit then takes some ten passes over the rows, and
the passes of all fits are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probes.solvers.design import Design
from probes.solvers.linear import Linear

__all__ = ["fit_logistic"]

HISTORY = 6
# Below this share of the loss without weights, classes are told apart well.
STRONG = 0.8
ARMIJO = 1e-4
MAX_HALVINGS = 30
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
            beta[:-1] = torch.einsum("dr,dbc->rbc", design.basis, start[0][:, some])
            beta[-1] = start[1][some]
        parts.append(_minimise(loss, beta, tolerance, max_iterations))
    return Linear.joined(parts)


@dataclass
class _Loss:
    """The mean log-loss of B fits with its penalty; parameters [r + 1, B, C], intercept last."""

    design: Design
    y: Tensor
    strength: Tensor
    classes: int

    def __post_init__(self) -> None:
        n = self.y.shape[1]
        self.penalty = (1 / (self.strength * n))[:, None]
        self.labels = self.y.T.contiguous()  # [n, B]
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
        beta = U.new_zeros(U.shape[1] + 1, *share.shape)
        beta[-1] = share.logit() if self.classes == 2 else share.log()
        if self.classes > 2:
            beta[-1] -= beta[-1].mean(-1, keepdim=True)
        return beta

    def unit(self) -> Tensor:
        """How large is a gradient of one? [r + 1]: larger where a direction joins many features."""
        variance = torch.cat([self.design.variance, self.design.variance.new_ones(1)])
        return variance.clamp(min=1.0).sqrt()

    def curvature(self, flat: Tensor) -> Tensor:
        """The diagonal of the Hessian where all weights are zero, [r + 1, B, C].

        Of fits that are `flat` [B], the average over directions is added: where classes are told
        apart well, most rows have no curvature left, and least where variance is small.
        """
        spread = (self.share * (1 - self.share)).clamp(min=1e-3)
        average = self.design.variance.sum() / max(1, len(self.design.variance))
        variance = self.design.variance[:, None] + flat.to(spread) * average
        variance = torch.cat([variance, variance.new_ones(1, variance.shape[1])])
        diagonal = variance[..., None] * spread
        diagonal[:-1] += self.penalty
        return diagonal

    def value_and_gradient(self, beta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [b] and gradient [r + 1, b, C] of the fits `rows` at beta [r + 1, b, C]."""
        U, n = self.design.U, len(self.design.U)
        r, (b, C) = U.shape[1], beta.shape[1:]
        weights = beta[:-1]
        z = torch.addmm(beta[-1].reshape(1, -1), U, weights.reshape(r, b * C)).view(n, b, C)
        labels = self.labels if b == self.labels.shape[1] else self.labels[:, rows]
        if self.classes == 2:
            loss, residual = _binary(z, labels)
        else:
            loss, residual = _multinomial(z, labels)
        penalty = self.penalty[rows]
        gradient = torch.empty_like(beta)
        gradient[:-1] = (U.T @ residual.view(n, b * C)).view(r, b, C) / n + penalty * weights
        gradient[-1] = residual.sum(0) / n
        return loss / n + 0.5 * penalty[:, 0] * weights.square().sum((0, 2)), gradient


def _binary(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed log-losses [b] and their derivatives by z [n, b, 1]; z is used up."""
    y = labels.to(z)[..., None]
    loss = (softplus(z) - y * z).sum((0, 2))
    return loss, z.sigmoid_().sub_(y)


def _multinomial(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same of logits [n, b, C]."""
    index = labels[..., None]
    z -= z.amax(-1, keepdim=True)
    own = z.gather(-1, index)[..., 0]
    p = z.exp_()
    total = p.sum(-1, keepdim=True)
    loss = (total[..., 0].log() - own).sum(0)
    p /= total
    p.scatter_add_(-1, index, p.new_full((), -1.0).expand(index.shape))
    return loss, p


def _minimise(loss: _Loss, beta: Tensor, tolerance: float, max_iterations: int) -> Linear:
    final = beta.clone()
    rows = torch.arange(beta.shape[1], device=beta.device)
    value, gradient = loss.value_and_gradient(beta, rows)
    inverse = 1 / loss.curvature(torch.zeros_like(value))
    within_reach = value - 0.5 * _dot(gradient, inverse * gradient)
    inverse = 1 / loss.curvature(within_reach < STRONG * loss.entropy())
    unit = loss.unit()[:, None]
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(max_iterations):
        open_ = (gradient.abs().amax(2) / unit).amax(0) > tolerance
        if int(open_.sum()) <= 0.75 * len(rows):
            final[:, rows] = beta
            if not bool(open_.any()):
                return Linear(final[:-1], final[-1])
            rows, beta, inverse = rows[open_], beta[:, open_], inverse[:, open_]
            value, gradient = value[open_], gradient[:, open_]
            steps = [s[:, open_] for s in steps]
            changes = [c[:, open_] for c in changes]
        direction = _direction(gradient, steps, changes, inverse)
        slope = _dot(gradient, direction)
        uphill = slope >= 0
        if bool(uphill.any()):
            plain = -gradient * inverse
            direction = torch.where(uphill[:, None], plain, direction)
            slope = torch.where(uphill, _dot(gradient, plain), slope)
        found, at, at_value, at_gradient = _search(loss, rows, beta, direction, value, slope)
        steps.append(at - beta)
        changes.append(at_gradient - gradient)
        del steps[:-HISTORY], changes[:-HISTORY]
        beta, value, gradient = at, at_value, at_gradient
        if not bool(found.any()):
            break  # the precision of the numbers is reached
    final[:, rows] = beta
    return Linear(final[:-1], final[-1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((0, 2))


def _direction(
    gradient: Tensor, steps: list[Tensor], changes: list[Tensor], inverse: Tensor
) -> Tensor:
    """The two-loop recursion; a pair without positive curvature is passed over."""
    q = gradient.clone()
    used = []
    for s, c in zip(reversed(steps), reversed(changes), strict=True):
        curvature = _dot(s, c)
        usable = curvature > 1e-12 * _dot(c, c).sqrt() * _dot(s, s).sqrt()
        rho = torch.where(usable, 1 / torch.where(usable, curvature, 1.0), 0.0)
        alpha = rho * _dot(s, q)
        q = q - alpha[:, None] * c
        used.append((s, c, rho, alpha))
    q = q * inverse
    if used:
        s, c, rho, _ = used[0]
        size = _dot(c, c * inverse)
        gamma = torch.where((rho > 0) & (size > 0), _dot(s, c) / size.clamp(min=1e-300), 1.0)
        q = q * gamma[:, None]
    for s, c, rho, alpha in reversed(used):
        q = q + (alpha - rho * _dot(c, q))[:, None] * s
    return -q


def _search(
    loss: _Loss, rows: Tensor, beta: Tensor, direction: Tensor, value: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each fit's step until its loss falls enough; fits that never do stay where they are."""
    length = torch.ones_like(value)
    slack = 10 * torch.finfo(value.dtype).eps * value.abs()
    for _ in range(MAX_HALVINGS):
        at = beta + length[:, None] * direction
        at_value, at_gradient = loss.value_and_gradient(at, rows)
        falls = at_value <= value + ARMIJO * length * slope + slack
        if bool(falls.all()):
            return falls, at, at_value, at_gradient
        length = torch.where(falls, length, length / 2)
    length = torch.where(falls, length, 0.0)
    at = beta + length[:, None] * direction
    return falls, at, *loss.value_and_gradient(at, rows)
