"""How many bits does a label take, given the thoughts, when learning to read it costs too?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    without any probe: above 1, `over_shares` says that features were read.
    """

    bits: float
    uniform_bits: float
    shares_bits: float
    compression: float
    over_shares: float
    blocks: tuple[Block, ...]


def online_code(
    fit_predict: Callable[[Ints, Ints], NDArray[np.float64]],
    y: Ints,
    groups: NDArray[np.object_],
    classes: int,
    seed: int,
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
    shares_bits = 0.0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        train, test = np.sort(order[:start]), np.sort(order[start:end])
        p = np.full((test.size, classes), 1 / classes)
        if np.unique(y[train]).size > 1:
            found = fit_predict(train, test)
            if found.shape != p.shape or not np.allclose(found.sum(axis=1), 1, atol=1e-4):
                raise ValueError(f"expected probabilities {p.shape}, got {found.shape}")
            p = (train.size * found + p) / (train.size + 1)
        bits = -np.log2(p[np.arange(test.size), y[test]]).sum()
        seen = np.bincount(y[train], minlength=classes) + 0.5
        shares_bits -= float(np.log2(seen[y[test]] / seen.sum()).sum())
        blocks.append(Block(int(train.size), int(test.size), float(bits)))
    bits, uniform = sum(b.bits for b in blocks), y.size * float(np.log2(classes))
    return Mdl(bits, uniform, shares_bits, uniform / bits, shares_bits / bits, tuple(blocks))
