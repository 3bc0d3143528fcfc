"""Which labels would there be if they had nothing to do with the thoughts?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from probes.statistics import STATISTIC, statistic

__all__ = [
    "ALL_EQUAL",
    "Donors",
    "Permutation",
    "control_task",
    "donors",
    "permutation_test",
    "permute_between_groups",
]

Ints = NDArray[np.int64]
BATCH = 128
ALL_EQUAL = "all labels of it are equal, so there is nothing to learn"


@dataclass(frozen=True)
class Donors:
    """`trace` [P, n]: whose labels each trace gets in each permutation.

    Whole groups exchange labels, trace by trace, with groups that have as many traces which have
    the label at the same places; what hangs together within a group still does. `fixed`: traces of
    groups that no other group is like, which keep their own labels, so that p-values are too large
    rather than too small.
    """

    trace: Ints
    fixed: int

    def labels(self, y: NDArray[np.int64] | NDArray[np.float64], trace: Ints) -> np.ndarray:
        """Permuted labels [P, m] of the rows that belong to `trace` [m] and are labelled y [m].

        Every donor of these traces is one of them.
        """
        place = np.full(self.trace.shape[1], -1, dtype=np.int64)
        place[trace] = np.arange(len(trace))
        rows = place[self.trace[:, trace]]
        if (rows < 0).any():
            raise ValueError("a donor is not among the labelled traces")
        return np.asarray(y)[rows]


def donors(groups: NDArray[np.object_], profile: NDArray[Any], count: int, seed: int) -> Donors:
    """`count` permutations of labels between groups. groups [n]; profile [n, ...]: what traces must
    have in common to exchange labels, such as where they have one.

    Raises UserError when more than half of the traces are in groups that no other is like.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[str(group)].append(i)
    alike: dict[bytes, list[list[int]]] = defaultdict(list)
    for rows in members.values():
        ordered = sorted(rows, key=lambda i: profile[i].tobytes())
        alike[b"/".join(profile[i].tobytes() for i in ordered)].append(ordered)
    fixed = sum(len(classes[0]) for classes in alike.values() if len(classes) == 1)
    if 2 * fixed > len(groups):
        raise UserError(
            f"labels cannot be permuted: {fixed} of {len(groups)} traces are in problem groups"
            " whose number of traces and thoughts no other group has; trace more problems or as"
            " many samples of each"
        )
    rng = np.random.default_rng(seed)
    trace = np.tile(np.arange(len(groups)), (count, 1))
    for classes in alike.values():
        if len(classes) == 1:
            continue
        own = np.array(classes)  # [groups, traces in each]
        for p in range(count):
            trace[p, own.ravel()] = own[rng.permutation(len(own))].ravel()
    return Donors(trace, fixed)


def control_task(
    y: NDArray[np.int64] | NDArray[np.float64], kinds: NDArray[np.object_], seed: int
) -> np.ndarray:
    """Labels that say nothing but can be memorised: one at random for each kind of thought.

    y [n], kinds [n] (what recurs, such as the decoded text): every kind gets the label of a random
    row. A probe that reads these as well reads nothing but which kind it sees (Hewitt & Liang 2019,
    arXiv 1909.03368); selectivity is the difference.
    """
    names, of = np.unique(kinds.astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    return np.asarray(y)[rng.integers(len(y), size=len(names))][of]


@dataclass(frozen=True)
class Permutation:
    """How often do labels that have nothing to do with the rows score as well?

    `p_value`: (1 + permutations as good) / (1 + permutations); `null_max`: the best of them; both
    None, with the `reason`, where groups cannot exchange labels, or no exchange changes one.
    """

    statistic: str
    observed: float
    p_value: float | None
    null_max: float | None
    permutations: int
    fixed: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def permutation_test(
    kind: str,
    y: NDArray[np.int64] | NDArray[np.float64],
    told: NDArray[np.float64],
    groups: NDArray[np.object_],
    count: int,
    seed: int,
    K: NDArray[np.int64] | None = None,
) -> Permutation:
    """Does the probe read the held-out labels better than labels exchanged between their groups?

    y [n]; told: its probabilities or numbers there, [n] or [n, C]; K [n]: how many thoughts each
    trace has (None: all as many). Groups exchange with those of as many traces of the same lengths:
    the test is exact for "given the lengths, the held-out labels do not depend on what was read".
    """
    lengths = np.zeros(len(y), dtype=np.int64) if K is None else K
    scores = torch.from_numpy(told if told.ndim == 2 else told[:, None])

    def of(labels: NDArray[Any]) -> NDArray[np.float64]:
        repeated = scores[None].expand(len(labels), -1, -1)
        return statistic(kind, torch.from_numpy(labels), repeated).numpy()

    name, observed = STATISTIC[kind], float(of(y[None])[0])
    if np.ptp(y) == 0:
        return Permutation(name, observed, None, None, 0, 0, "all held-out labels are equal")
    try:
        whose = donors(groups, lengths[:, None], count, seed)
    except UserError as error:
        return Permutation(name, observed, None, None, 0, 0, str(error))
    if (y[whose.trace] == y).all():
        reason = "the label follows from the number of thoughts: no exchange changes it"
        return Permutation(name, observed, None, None, 0, whose.fixed, reason)
    null = np.concatenate([of(y[part]) for part in np.array_split(whose.trace, -(-count // BATCH))])
    p = (1 + int((null >= observed - 1e-12).sum())) / (1 + count)
    return Permutation(name, observed, p, float(np.nanmax(null)), count, whose.fixed)


def permute_between_groups(
    y: NDArray[np.int64] | NDArray[np.float64], groups: NDArray[np.object_], seed: int
) -> np.ndarray:
    """Labels [n] of other groups, repeated or cut to the size of each.

    Whatever hangs together within a group still does; of groups of unequal size only nearly so
    (`donors` exchanges among equals).
    """
    rng = np.random.default_rng(seed)
    _, cluster = np.unique(groups.astype(str), return_inverse=True)
    members = [np.flatnonzero(cluster == g) for g in range(int(cluster.max(initial=-1)) + 1)]
    result = y.copy()
    for target, donor in enumerate(rng.permutation(len(members))):
        result[members[target]] = np.resize(y[members[donor]], members[target].size)
    return result
