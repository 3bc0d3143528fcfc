"""Attention pooling: it finds the one thought that tells, and numpy reads what torch fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score

from probes.attention import ATTENTION, PENALTIES, fit_attention
from probes.fitting import fit_rows
from probes.weights import Weights

D = 6


def planted(n: int, kind: str, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Ragged trajectories [K, D], K of 1 to 7; their labels; which thought tells, [n].

    Column 0 marks the thought that tells, in columns 1 to 3; the others hold louder noise there.
    """
    rng = np.random.default_rng(seed)
    K = rng.integers(1, 8, size=n)
    where = rng.integers(K)
    y = rng.normal(size=n) if kind == "number" else rng.integers(_classes(kind) or 2, size=n)
    thoughts = []
    for i in range(n):
        x = rng.normal(size=(K[i], D))
        x[:, 1:4] *= 4
        x[where[i], 0] += 6
        told = np.zeros(3)
        if kind == "multiclass":
            told[y[i]] = 4
        else:
            told[0] = 2 * y[i] - (kind == "binary")
        x[where[i], 1:4] = told + 0.3 * rng.normal(size=3)
        thoughts.append(x * 3 + 10)
    return thoughts, y, where


def _classes(kind: str) -> int:
    return {"binary": 2, "multiclass": 3, "number": 0}[kind]


def read(kind: str, y: np.ndarray, told: np.ndarray) -> float:
    if kind == "number":
        return float(r2_score(y, told[:, 0]))
    if kind == "binary":
        return float(roc_auc_score(y, told[:, 0]))
    return float(np.mean([roc_auc_score(y == c, told[:, c]) for c in range(told.shape[1])]))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "number"])
def test_it_finds_the_thought_that_tells_and_their_mean_does_not(kind: str) -> None:
    thoughts, y, where = planted(300, kind, seed=0)
    fold = np.arange(300) % 3
    found = fit_rows(thoughts, y, kind, _classes(kind), fold, ATTENTION)
    assert found.weights is not None
    assert found.weights.query is not None
    assert found.penalty in PENALTIES
    assert found.out_of_fold.shape == (300, 3 if kind == "multiclass" else 1)
    assert read(kind, y, found.out_of_fold) > 0.9
    assert found.value > 0.85
    mean = np.stack([t.mean(0) for t in thoughts])
    name = "ridge" if kind == "number" else "logistic"
    pooled = fit_rows(mean, y, kind, _classes(kind), fold, name)
    assert read(kind, y, pooled.out_of_fold) < read(kind, y, found.out_of_fold) - 0.1
    fresh, y_fresh, where = planted(200, kind, seed=1)
    assert read(kind, y_fresh, found.read(fresh)) > 0.9
    most = [
        int(np.argmax((t - found.weights.mean) / found.weights.scale @ found.weights.query))
        for t in fresh
    ]
    assert np.mean(np.array(most) == where) > 0.95


def test_noise_is_not_read() -> None:
    thoughts, _, _ = planted(240, "binary", seed=2)
    y = np.random.default_rng(5).integers(2, size=240)
    found = fit_rows(thoughts, y, "binary", 2, np.arange(240) % 3, ATTENTION)
    assert abs(read("binary", y, found.out_of_fold) - 0.5) < 0.1


def test_numpy_applies_what_torch_fitted() -> None:
    """The pooling as torch would do it, with a mask over the longest trajectory."""
    thoughts, y, _ = planted(80, "multiclass", seed=3)
    weights = fit_attention(thoughts, y, "multiclass", 3, 1e-2, seed=0)
    assert weights.query is not None
    K = torch.tensor([len(t) for t in thoughts])
    mask = torch.arange(int(K.max())) < K[:, None]
    X = torch.zeros(*mask.shape, D, dtype=torch.float64)
    X[mask] = torch.from_numpy((np.concatenate(thoughts) - weights.mean) / weights.scale)
    weight = (X @ torch.from_numpy(weights.query)).masked_fill(~mask, -torch.inf).softmax(-1)
    pooled = torch.einsum("nk,nkd->nd", weight, X)
    told = pooled @ torch.from_numpy(weights.coef).T + torch.from_numpy(weights.intercept)
    np.testing.assert_allclose(weights.scores(thoughts), told.numpy(), atol=1e-12)
    alone = np.concatenate([weights.scores([t]) for t in thoughts])
    np.testing.assert_allclose(weights.scores(thoughts), alone, atol=1e-12)
    turned = [t[::-1] for t in thoughts]
    np.testing.assert_allclose(weights.scores(turned), told.numpy(), atol=1e-12)


def test_thoughts_that_are_not_there_take_no_part_in_the_fit() -> None:
    """At the minimum the slopes by coef and intercept are 0, each trace pooled over its own."""
    thoughts, y, _ = planted(100, "number", seed=8)
    y = (y - y.mean()) / y.std()
    weights = fit_attention(thoughts, y, "number", 0, 1e-2, seed=0)
    only = replace(weights, coef=np.eye(D), intercept=np.zeros(D))
    pooled = only.scores(thoughts)
    missed = weights.scores(thoughts)[:, 0] - y
    np.testing.assert_allclose(missed.mean(), 0, atol=1e-4)
    slope = missed @ pooled / 100 + 1e-2 * weights.coef[0]
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_single_thoughts_are_read_as_by_a_linear_probe() -> None:
    thoughts, y, _ = planted(60, "binary", seed=4)
    single = [t[:1] for t in thoughts]
    weights = fit_attention(single, y, "binary", 2, 1e-2, seed=0)
    linear = replace(weights, query=None)
    np.testing.assert_allclose(weights.scores(single), linear.scores(np.concatenate(single)))
    assert weights.query is not None
    assert np.abs(weights.query).max() < 0.05  # nothing to choose among: the penalty wins


def test_the_seed_decides_and_constant_columns_do_no_harm() -> None:
    thoughts, y, _ = planted(60, "binary", seed=6)
    thoughts = [np.hstack([t, np.full((len(t), 1), 7.0)]).astype(np.float32) for t in thoughts]
    first, again = (fit_attention(thoughts, y, "binary", 2, 1e-2, seed=1) for _ in range(2))
    other = fit_attention(thoughts, y, "binary", 2, 1e-2, seed=2)
    assert first.hash() == again.hash() != other.hash()
    assert first.scale[-1] == 1.0
    assert np.isfinite(first.scores(thoughts)).all()


def test_the_unit_of_a_number_changes_nothing() -> None:
    thoughts, y, _ = planted(150, "number", seed=7)
    plain, small = (fit_attention(thoughts, v, "number", 0, 1e-2, 0) for v in (y, y / 1000 + 50))
    told = plain.scores(thoughts)
    assert r2_score(y, told[:, 0]) > 0.9
    np.testing.assert_allclose((small.scores(thoughts) - 50) * 1000, told, atol=1e-3)
    constant = fit_attention(thoughts, np.full(150, 3.0), "number", 0, 1e-2, 0)
    np.testing.assert_allclose(constant.scores(thoughts), 3.0, atol=1e-6)


def test_weights_are_told_apart_by_every_array() -> None:
    x = np.arange(3.0)
    plain = Weights(x, x + 1, x[None], x[:1])
    assert set(plain.arrays) == {"mean", "scale", "coef", "intercept"}
    pooled = replace(plain, query=x)
    assert set(pooled.arrays) == {*plain.arrays, "query"}
    shifted = replace(plain, mean=x + 1e-12)
    assert len({plain.hash(), pooled.hash(), shifted.hash()}) == 3
    np.testing.assert_allclose(plain.scores(x[None] + 1), [[((x + 1 - x) / (x + 1)) @ x]])
    far = replace(pooled, query=1e4 * np.ones(3))  # a softmax that would overflow
    assert np.isfinite(far.scores([np.vstack([x, x + 9])])).all()
