"""How many bits does a label take, given the thoughts, when learning to read it costs too?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.intervals import Estimate, group_draws, percentile_interval

__all__ = ["SHARES", "Block", "Mdl", "online_code"]

# of the rows, as Voita & Titov (2020) take them
SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Rows coded together: how many were trained on before, how many coded, in how many bits."""

    trained: int
    coded: int
    bits: float


@dataclass(frozen=True)
class Mdl:
    """Bits of all labels, under a uniform code, and under the shares of classes seen so far.

    `compression`: uniform_bits / bits; `over_shares`: shares_bits / bits. Unequal classes compress
    without any probe: above 1, `over_shares` says that features were read. These and
    `bits_per_label` have 95 % intervals over resamples of the `groups` whose labels were coded,
    NaN ends for a single group; another order of the groups, and so other fits, are not in them.
    """

    bits: float
    uniform_bits: float
    shares_bits: float
    bits_per_label: Estimate
    compression: Estimate
    over_shares: Estimate
    groups: int
    blocks: tuple[Block, ...]


def online_code(
    fit_predict: Callable[[Ints, Ints], NDArray[np.float64]],
    y: Ints,
    groups: NDArray[np.object_],
    classes: int,
    seed: int,
    draws: int = 1000,
) -> Mdl:
    """In how many bits could the labels be sent to one who has the features and the same learner?

    Groups in a random order, cut into growing blocks of whole groups: each block's labels are coded
    with the probabilities of a probe fitted on all blocks before it, the first (and any before
    which a single class was seen) uniformly. `fit_predict(train_rows, test_rows)` gives
    probabilities [test, classes]; it must fit any rows of at least two classes. They are mixed with
    one uniform pseudo-row, (n p + 1 / C) / (n + 1) after n rows, so that a class not seen yet costs
    finitely many bits. y [n] class indices, groups [n], `classes` how many. Prequential code of
    Voita & Titov 2020 (arXiv 2003.12298).

    Shares of classes are coded block by block as well, with half a row added to each. Says nothing
    of whether the model uses the label.
    """
    names, cluster = np.unique(groups.astype(str), return_inverse=True)
    place = np.random.default_rng(seed).permutation(names.size)[cluster]
    order = np.argsort(place, kind="stable")
    last_of_group = np.cumsum(np.bincount(place, minlength=names.size))
    reached = np.searchsorted(last_of_group, np.array(SHARES) * y.size - 1e-9)
    ends = np.unique(last_of_group[reached])
    blocks = []
    bits, shares_bits = np.empty(y.size), np.empty(y.size)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        train, test = np.sort(order[:start]), np.sort(order[start:end])
        p = np.full((test.size, classes), 1 / classes)
        if np.unique(y[train]).size > 1:
            found = fit_predict(train, test)
            if found.shape != p.shape or not np.allclose(found.sum(axis=1), 1, atol=1e-4):
                raise ValueError(f"expected probabilities {p.shape}, got {found.shape}")
            p = (train.size * found + p) / (train.size + 1)
        bits[test] = -np.log2(p[np.arange(test.size), y[test]])
        seen = np.bincount(y[train], minlength=classes) + 0.5
        shares_bits[test] = -np.log2(seen[y[test]] / seen.sum())
        blocks.append(Block(int(train.size), int(test.size), float(bits[test].sum())))
    uniform = np.full(y.size, np.log2(classes))
    resamples = group_draws(groups, draws if names.size > 1 else 0, seed)

    def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Estimate:
        drawn = resamples.sums(above) / resamples.sums(below)
        return percentile_interval(above.sum() / below.sum(), drawn)

    return Mdl(
        float(bits.sum()),
        float(uniform.sum()),
        float(shares_bits.sum()),
        ratio(bits, np.ones(y.size)),
        ratio(uniform, bits),
        ratio(shares_bits, bits),
        names.size,
        tuple(blocks),
    )
