"""What do clean trajectories look like? Fits a battery on traces that rank nobody afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analyses.battery.battery import (
    Battery,
    Directions,
    statistic_names,
    statistics_of,
)
from analyses.battery.catalogue import COMBINED
from analyses.battery.combine import fit_quantiles
from analyses.battery.dimensions import usual_blocks
from analyses.battery.hidden import HiddenReference, fit_hidden
from analyses.battery.moments import Moments, MomentsSum
from analyses.battery.noise import joined
from analyses.battery.source import Source, blocks_of
from analyses.battery.steps import QUANTITIES, quantities, unusable
from nfcot_model.errors import UserError

__all__ = ["fit_battery"]

Floats = NDArray[np.float64]

TOP_SHARE = 4


def fit_battery(
    reference: Source | Sequence[Source],
    *,
    fit: Source | Sequence[Source] | None = None,
    directions: Mapping[str, Floats] | None = None,
    features: str | None = None,
    combine: tuple[str, ...] = COMBINED,
) -> Battery:
    """What is usual, by every statistic? Position means and quantiles come from `reference`.

    fit: other clean traces for what is learned (the principal subspace, covariances and neighbours
    of hidden states); without it `reference` serves for both. directions: name -> [D], to watch in
    noise space. features: `h` or a captured site, for the hidden-state statistics (plain
    arrays bring their own). combine: the statistics of the score. New traces must be ranked among
    a third clean set, never among these. Raises UserError for a value that is not a number in a
    clean trace; ValueError without traces.
    """
    learned = reference if fit is None else fit
    axes, hidden = _learn(learned, features)
    blocks = usual_blocks(noise.x for noise in blocks_of(learned))
    watched = _directions(directions, len(axes)) if directions else None
    moments = _moments(reference, axes)
    parts: list[dict[str, Floats]] = []
    tasks, lengths = [], []
    names: tuple[str, ...] = ()
    for noise in blocks_of(reference, features):
        found, _, invalid, _ = statistics_of(noise, axes, moments, watched, hidden, blocks)
        parts.append({name: values[~invalid] for name, values in found.items()})
        tasks.append(noise.tasks[~invalid])
        lengths.append(noise.K[~invalid])
        names = statistic_names(noise, watched, hidden, blocks)
    unknown = set(combine) - set(names)
    if unknown:
        raise ValueError(f"no statistic {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    statistics = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    quantiles = fit_quantiles(statistics, np.concatenate(tasks), np.concatenate(lengths))
    return Battery(
        len(axes), axes, moments, quantiles, combine, names, watched, hidden, features, blocks
    )


def _learn(
    source: Source | Iterable[Source], features: str | None
) -> tuple[Floats, HiddenReference | None]:
    """The principal quarter of the axes of clean noise [D, r], and clean hidden states."""
    second: Floats | float = 0.0
    with_states = []
    for noise in blocks_of(source, features):
        bad = unusable(noise)
        if bad.any():
            raise UserError(
                f"trace {noise.ids[noise.owner[bad][0]]} has an energy that is not a number; a"
                " calibration run must be clean, collect it again"
            )
        second = second + noise.x.T @ noise.x
        if noise.features is not None:
            with_states.append(noise)
    if isinstance(second, float):
        raise ValueError("no clean trajectories to fit on")
    width = max(1, len(second) // TOP_SHARE)
    _, vectors = np.linalg.eigh(np.asarray(second, dtype=np.float64))
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :width])
    return axes, fit_hidden(joined(with_states)) if with_states else None


def _directions(given: Mapping[str, Floats], D: int) -> Directions:
    vectors = np.array([np.asarray(v, dtype=np.float64) for v in given.values()])
    if vectors.shape != (len(given), D):
        raise ValueError(f"directions have shape {vectors.shape[1:]}, expected ({D},)")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("a direction must be finite and not zero")
    return Directions(tuple(given), vectors / lengths)


def _moments(source: Source | Iterable[Source], axes: Floats) -> Moments:
    sums = MomentsSum(len(QUANTITIES))
    for noise in blocks_of(source):
        bad = unusable(noise)
        if bad.any():
            raise UserError(
                f"trace {noise.ids[noise.owner[bad][0]]} has an energy that is not a number; a"
                " calibration run must be clean, collect it again"
            )
        if len(noise.x):
            values = quantities(noise.x.astype(np.float64), noise, axes)
            sums.add(noise.tasks[noise.owner], noise.k, values)
    return sums.finish()
