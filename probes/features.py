"""What stands at a site? One space of a run in memory at a time, then one row per trace."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from nfcot_model.traces.activations import activation_sets
from probes.sites import Site, SiteRows, real_site
from probes.weights import Features

__all__ = ["gather", "read_site", "read_space", "space_width"]

Floats = NDArray[np.float32]


def read_space(run: Run, site: Site) -> Floats:
    """What stands in the site's space (and layer) at every thought? [rows, width], the whole run.

    Row i belongs to `run.thoughts.iloc[i]`; `gather` picks a place from it, so that a sweep reads a
    space once. Of `h`, one layer is read, shard by shard. Raises UserError for a layer or hook that
    the run does not have, and for values that are not finite, naming the first trace and thought.
    """
    site = real_site(run, site)
    if site.captured:
        values = run.activation(site.space)
        values = values.reshape(len(values), -1)
    else:
        layer = _stored_layer(run, site)
        width = run.row_shape(site.space)[-1:] or (0,)
        values = np.empty((len(run.thoughts), *width), dtype=np.float32)
        start = 0
        for shard in pd.unique(run.traces["shard"]):
            part = run.shard_tensor(site.space, str(shard), layer)
            values[start : start + len(part)] = part
            start += len(part)
    _refuse_not_finite(run, site, values)
    return values


def _stored_layer(run: Run, site: Site) -> int | None:
    """Which layer of the tensor is it? The only one of a run that stores the last."""
    return 0 if site.layer == -1 else site.layer


def _refuse_not_finite(run: Run, site: Site, values: Floats) -> None:
    # a sum is finite only if every value is, and needs no array of truths as large as the space
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(values.sum(axis=1, dtype=np.float64)))
    bad = suspects[~np.isfinite(values[suspects]).all(axis=1)]
    if bad.size:
        thought = run.thoughts.iloc[bad[0]]
        raise UserError(
            f"{run.name}: {site.source} holds values that are not finite numbers at thought"
            f" {thought['k']} of trace {thought['trace_id']} (and at {bad.size - 1} other"
            " thoughts); read another --site, or trace those problems again"
        )


def space_width(run: Run, site: Site) -> int:
    """How many values has one thought in the site's space? Reads none of them."""
    site = real_site(run, site)
    if site.captured:
        sets = activation_sets(run.path, run.hash)
        return math.prod(next(s.shapes[site.space] for s in sets if site.space in s.shapes))
    return run.row_shape(site.space)[-1]


def gather(values: Floats, site: Site, rows: SiteRows) -> Features:
    """What does a probe read at the place? [n, width'], or for `all` a list of [count, width].

    values: [rows, width] from `read_space`; width' is count * width for `concat`, else width.
    """
    how = site.place.how
    if how == "all":
        return [values[a : a + c] for a, c in zip(rows.first, rows.count, strict=True)]
    if how == "concat":
        n = int(rows.count[0])
        return values[rows.first[:, None] + np.arange(n)].reshape(len(rows.first), -1)
    if how == "mean":
        return _mean(values, rows)
    if how == "max":
        return _over_thoughts(values, rows, neighbours=False)
    if how == "rollmax":
        return _over_thoughts(values, rows, neighbours=True)
    return values[rows.first]


def _mean(values: Floats, rows: SiteRows) -> Floats:
    total = values[rows.first].astype(np.float64)
    for j in range(1, int(rows.count.max())):
        has = rows.count > j
        total[has] += values[rows.first[has] + j]
    return (total / rows.count[:, None]).astype(np.float32)


def _over_thoughts(values: Floats, rows: SiteRows, neighbours: bool) -> Floats:
    """The largest value over thoughts, or over the means of two neighbours. [n, width]"""
    largest = values[rows.first]
    for j in range(1, int(rows.count.max())):
        has = rows.count > j
        at = rows.first[has] + j
        if not neighbours:
            largest[has] = np.maximum(largest[has], values[at])
            continue
        pair = 0.5 * values[at - 1] + 0.5 * values[at]
        largest[has] = pair if j == 1 else np.maximum(largest[has], pair)
    return largest


def read_site(run: Run, site: Site, rows: SiteRows) -> Features:
    """What does a probe read at the site? As `gather`, reading the site's space for it."""
    return gather(read_space(run, site), site, rows)
