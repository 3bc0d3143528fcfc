"""A synthetic process of latent thoughts whose anomalies are known: which statistic sees which?

Thoughts follow an autoregression on an 8-dimensional manifold in 32 dimensions, driven by a prompt,
with small noise off the manifold; a third of the prompts are hard, with wider innovations. The
scorer is learned from samples: an affine autoregressive flow given prompt and difficulty. The push
of a prompt is slightly bent, which an affine scorer cannot learn: as with any learned scorer, the
noise of a clean trajectory leans a little with its prompt. It is a toy: use it for orderings and
failure modes, not for absolute rates.

The published comparison names process and anomalies, not their numbers. Memory, widths, bend,
offsets, and what an anomaly's name leaves open (the norm of injected noise, the first of the equal
thoughts, how directions of usual energy go on) were chosen so that single statistics come out near
the published table, on seeds other than those of the benchmark; the battery itself was not. That
the table comes out shows that these values are possible, not that they are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.battery import Noise

__all__ = ["ANOMALIES", "LatentProcess", "Sample", "Scorer"]

Floats = NDArray[np.float64]

K, D, MANIFOLD = 64, 32, 8
MEMORY = 0.54
INNOVATION = 0.348
HARD_SHARE, HARD_WIDTH = 1 / 3, 1.55
PROMPT = 0.64
OFF_MANIFOLD = 0.0535
OFFSET, DRIFT = 0.077, 0.03
OFFSET_STEPS = 12
BEND = 0.034
SERIAL = 0.3
LEAN, LEAN_DIMENSIONS = 3.8, 4


@dataclass(frozen=True, eq=False)
class Sample:
    """n trajectories: `u` [n, K, D], prompts `q` [n, 8], `hard` [n]."""

    u: Floats
    q: Floats
    hard: NDArray[np.bool_]

    def with_u(self, u: Floats) -> Sample:
        return Sample(u, self.q, self.hard)


@dataclass(frozen=True, eq=False)
class Scorer:
    """u_k = weights . (u_k-1, q, 1) + L eps, with L lower triangular, by difficulty.

    `first` [9, D], `weights` [D + 9, D], `scale` [2, D, D], `first_scale` [2, D, D].
    """

    first: Floats
    weights: Floats
    scale: Floats
    first_scale: Floats

    def mean(self, previous: Floats | None, q: Floats) -> Floats:
        """The mean of the next thought, [n, D]."""
        one = np.ones((len(q), 1))
        if previous is None:
            return np.hstack([q, one]) @ self.first
        return np.hstack([previous, q, one]) @ self.weights

    def eps(self, sample: Sample) -> Floats:
        """The noise that the thoughts stand for, [n, K, D]."""
        found = np.empty_like(sample.u)
        for k in range(sample.u.shape[1]):
            previous = None if k == 0 else sample.u[:, k - 1]
            away = sample.u[:, k] - self.mean(previous, sample.q)
            scales = self.first_scale if k == 0 else self.scale
            for hard in (False, True):
                mine = sample.hard == hard
                found[mine, k] = np.linalg.solve(scales[int(hard)], away[mine].T).T
        return found

    def sample(self, eps: Floats, q: Floats, hard: NDArray[np.bool_]) -> Sample:
        """The thoughts that this noise gives, one after another."""
        u = np.empty_like(eps)
        for k in range(eps.shape[1]):
            scales = (self.first_scale if k == 0 else self.scale)[hard.astype(int)]
            noise = np.einsum("nij,nj->ni", scales, eps[:, k])
            u[:, k] = self.mean(None if k == 0 else u[:, k - 1], q) + noise
        return Sample(u, q, hard)

    def noise(self, sample: Sample, name: str) -> Noise:
        """As the battery takes it, with the thoughts themselves as features."""
        logdet = np.array([[np.linalg.slogdet(s)[1] for s in pair] for pair in (
            self.first_scale, self.scale
        )])  # fmt: skip
        n = len(sample.u)
        logvol = np.empty((n, sample.u.shape[1]))
        logvol[:, 0] = -logdet[0][sample.hard.astype(int)]
        logvol[:, 1:] = -logdet[1][sample.hard.astype(int)][:, None]
        return Noise.of(self.eps(sample), K, logvol=logvol, features=sample.u, name=name)


class LatentProcess:
    """The process with its fixed maps. `rng` decides the maps and every draw."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.out = np.linalg.qr(self.rng.normal(size=(D, D)))[0]
        turn = np.linalg.qr(self.rng.normal(size=(MANIFOLD, MANIFOLD)))[0]
        self.memory = MEMORY * turn
        self.prompt = PROMPT * np.linalg.qr(self.rng.normal(size=(MANIFOLD, MANIFOLD)))[0]
        self.direction = self.rng.normal(size=D)
        self.direction /= np.linalg.norm(self.direction)

    def draw(self, n: int) -> Sample:
        """n clean trajectories."""
        rng = self.rng
        q = rng.normal(size=(n, MANIFOLD))
        hard = rng.uniform(size=n) < HARD_SHARE
        width = INNOVATION * np.where(hard, HARD_WIDTH, 1.0)[:, None]
        pushed = (q + BEND * (np.square(q) - 1)) @ self.prompt.T
        x = np.linalg.solve(np.eye(MANIFOLD) - self.memory, pushed.T).T
        x = x + width * rng.normal(size=x.shape) / np.sqrt(1 - MEMORY**2)
        u = np.empty((n, K, D))
        for k in range(K):
            if k:
                x = x @ self.memory.T + pushed + width * rng.normal(size=x.shape)
            u[:, k] = x @ self.out[:, :MANIFOLD].T + OFF_MANIFOLD * rng.normal(size=(n, D))
        return Sample(u, q, hard)

    def learn(self, sample: Sample) -> Scorer:
        """The scorer of greatest likelihood on these trajectories."""
        n = len(sample.u)
        one = np.ones((n, 1))
        start = np.hstack([sample.q, one])
        first = np.asarray(np.linalg.lstsq(start, sample.u[:, 0], rcond=None)[0], dtype=float)
        repeated = np.repeat(start, K - 1, axis=0)
        inputs = np.hstack([sample.u[:, :-1].reshape(-1, D), repeated])
        targets = sample.u[:, 1:].reshape(-1, D)
        weights = np.asarray(np.linalg.lstsq(inputs, targets, rcond=None)[0], dtype=float)
        rest = (targets - inputs @ weights).reshape(n, K - 1, D)
        rest_first = sample.u[:, 0] - start @ first
        groups = [sample.hard == hard for hard in (False, True)]
        scale = [np.linalg.cholesky(np.cov(rest[g].reshape(-1, D).T)) for g in groups]
        first_scale = [np.linalg.cholesky(np.cov(rest_first[g].T)) for g in groups]
        return Scorer(first, weights, np.array(scale), np.array(first_scale))


Anomaly = Callable[[LatentProcess, Scorer, Sample], Sample]


def _places(process: LatentProcess, sample: Sample, width: int = 1) -> NDArray[np.int64]:
    return process.rng.integers(1, K - width, size=len(sample.u))


def _swap(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    u, other = sample.u.copy(), np.roll(np.arange(len(sample.u)), 1)
    rows, k = np.arange(len(u)), _places(process, sample)
    u[rows, k] = sample.u[other, k]
    return sample.with_u(u)


def _wrong_prompt(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    """Another prompt of the same difficulty."""
    q = sample.q.copy()
    for hard in (False, True):
        mine = np.flatnonzero(sample.hard == hard)
        q[mine] = sample.q[np.roll(mine, 1)]
    return Sample(sample.u, q, sample.hard)


def _noise(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    """A random direction of a thought's root mean square norm, in place of one thought."""
    u, rows, k = sample.u.copy(), np.arange(len(sample.u)), _places(process, sample)
    direction = process.rng.normal(size=(len(u), D))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    u[rows, k] = direction * np.sqrt(np.square(u).sum(axis=2).mean())
    return sample.with_u(u)


def _mean_one(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    u, rows, k = sample.u.copy(), np.arange(len(sample.u)), _places(process, sample)
    u[rows, k] = sample.u.mean(axis=0)[k]
    return sample.with_u(u)


def _mean_last(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    u = sample.u.copy()
    u[:, -16:] = sample.u.mean(axis=0)[-16:]
    return sample.with_u(u)


def _drawn_at(tau: float) -> Anomaly:
    def draw(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
        eps = tau * process.rng.normal(size=sample.u.shape)
        return scorer.sample(eps, sample.q, sample.hard)

    return draw


def _stuck(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    """A thought, and eight more that repeat it."""
    u = sample.u.copy()
    for i, k in enumerate(_places(process, sample, 8)):
        u[i, k + 1 : k + 9] = u[i, k]
    return sample.with_u(u)


def _offset(inside: bool) -> Anomaly:
    def move(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
        u = sample.u.copy()
        u[:, -OFFSET_STEPS:] += OFFSET * process.out[:, 0 if inside else MANIFOLD]
        return sample.with_u(u)

    return move


def _drift(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    return sample.with_u(sample.u + DRIFT * process.direction)


def _correlated(process: LatentProcess, shape: tuple[int, ...], rho: float) -> Floats:
    eps = process.rng.normal(size=shape)
    for k in range(1, shape[1]):
        eps[:, k] = rho * eps[:, k - 1] + np.sqrt(1 - rho**2) * eps[:, k]
    return eps


def _serial(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    return scorer.sample(_correlated(process, sample.u.shape, SERIAL), sample.q, sample.hard)


def _energy_matched(process: LatentProcess, scorer: Scorer, sample: Sample) -> Sample:
    """Every thought's energy is a drawn one; its direction goes on from the last and leans.

    It leans along the last dimensions of the noise, signs alternating, the same for all.
    """
    eps = process.rng.normal(size=sample.u.shape)
    turned = _correlated(process, sample.u.shape, SERIAL)
    signs = np.where(np.arange(LEAN_DIMENSIONS) % 2, -1.0, 1.0)
    turned[:, :, -LEAN_DIMENSIONS:] += LEAN / np.sqrt(LEAN_DIMENSIONS) * signs
    ratio = np.linalg.norm(eps, axis=2, keepdims=True) / np.linalg.norm(
        turned, axis=2, keepdims=True
    )
    return scorer.sample(turned * ratio, sample.q, sample.hard)


ANOMALIES: dict[str, Anomaly] = {
    "swap 1 thought": _swap,
    "wrong prompt": _wrong_prompt,
    "noise 1": _noise,
    "mean-abl 1": _mean_one,
    "mean-abl last16": _mean_last,
    "collapse tau .5": _drawn_at(0.5),
    "hot tau 1.1": _drawn_at(1.1),
    "stuck x8": _stuck,
    "offset in-manif.": _offset(True),
    "offset off-manif.": _offset(False),
    "drift all .03": _drift,
    "serial rho .3": _serial,
    "energy-matched": _energy_matched,
}
"""What is done to clean trajectories, by the name in the published table."""
