"""What do clean traces do at the same thoughts? Bands of scores, and the nearest clean thoughts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = ["LEVELS", "bands", "neighbours", "refuse_other_settings"]

LEVELS = (0.01, 0.05, 0.5, 0.95, 0.99)
LEAST = 20
QUERIES = 500
MOST = 5000

Floats = NDArray[np.float64]


def refuse_other_settings(run: Run, clean: Run) -> None:
    """Raise UserError unless clean thoughts were made as the run's: same model and settings."""
    for name, mine in run.settings.items():
        if clean.settings[name] != mine:
            raise UserError(
                f"--calibration {clean.name}: {name} is {clean.settings[name]!r}, that of"
                f" {run.name} is {mine!r}; give clean traces made with the same settings"
            )
    if not len(clean.thoughts):
        raise UserError(f"--calibration {clean.name}: holds no thought; trace clean problems")


def bands(clean: Run, values: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """Where do scores of a trace lie among clean ones at the same index? One entry per row.

    `values` has `k` and some columns of `clean.thoughts`, such as energy. Per column: `n` clean
    thoughts of other groups at this k, quantiles `LEVELS`, and `p`, the two-sided rank
    2 min(low, high) of (1 + as far out) / (n + 1); empty below 20 thoughts. One thought in a
    hundred is beyond 1 % by chance; a trace has several.
    """
    others = clean.thoughts[_elsewhere(clean, group)]
    names = [name for name in values.columns if name != "k"]
    entries = []
    for row in values.to_dict("records"):
        at = others[others["k"] == row["k"]]
        entry: dict[str, Any] = {}
        for name in names:
            known = at[name].to_numpy(dtype=np.float64)
            known = known[np.isfinite(known)]
            entry[name] = {"n": int(known.size)}
            if known.size >= LEAST:
                quantiles = np.quantile(known, LEVELS).tolist()
                entry[name] |= {"quantiles": quantiles, "p": _two_sided(row[name], known)}
        entries.append(entry)
    return entries


def _two_sided(value: float, known: Floats) -> float | None:
    if not np.isfinite(value):
        return None
    low, high = (known <= value).sum(), (known >= value).sum()
    return float(min(1.0, 2 * (1 + min(low, high)) / (known.size + 1)))


def _elsewhere(clean: Run, group: str) -> NDArray[np.bool_]:
    """Which clean thoughts are of another problem group?"""
    K = clean.traces["K"].to_numpy(dtype=np.int64)
    return np.repeat((clean.traces["group"] != group).to_numpy(), K)


def neighbours(
    clean: Run, u: Floats, group: str, *, nearest: int = 3, seed: int = 0
) -> list[dict[str, Any]]:
    """Which clean thoughts at the same index are nearest to each thought u [K, D]?

    Euclidean in `u` after division by the clean sd of each dimension at that index, among at most
    5,000 clean thoughts of other groups. `p`: the share of clean thoughts (of at most 500) whose
    own nearest neighbour in another group is as far. Near is not alike in what it is used for.
    """
    rng = np.random.default_rng(seed)
    stored = clean.tensor("u")
    groups = np.repeat(clean.traces["group"].to_numpy(dtype=object), clean.traces["K"])
    k = clean.thoughts["k"].to_numpy()
    finite = np.isfinite(stored).all(1)
    entries: list[dict[str, Any]] = []
    for place, thought in enumerate(u):
        rows = np.flatnonzero((k == place) & (groups != group) & finite)
        if rows.size < LEAST or not np.isfinite(thought).all():
            entries.append({"n": int(rows.size), "nearest": [], "p": None})
            continue
        rows = np.sort(rng.permutation(rows)[:MOST])
        scale = np.maximum(stored[rows].std(0, ddof=1), 1e-6)
        there = torch.from_numpy(stored[rows] / scale)
        away = torch.cdist(torch.from_numpy((thought / scale).astype(np.float32))[None], there)[0]
        order = away.argsort()[:nearest].tolist()
        query = np.sort(rng.permutation(rows.size)[:QUERIES])
        between = torch.cdist(there[torch.from_numpy(query)], there).numpy()
        between[groups[rows[query]][:, None] == groups[rows][None]] = np.inf
        usual = between.min(1)
        entries.append(
            {
                "n": int(rows.size),
                "nearest": [
                    {
                        "trace_id": clean.thoughts["trace_id"].iat[rows[i]],
                        "distance": float(away[i]),
                        "text": clean.thoughts["text"].iat[rows[i]],
                    }
                    for i in order
                ],
                "usual_distance": float(np.median(usual)),
                "p": float((1 + (usual >= float(away.min())).sum()) / (usual.size + 1)),
            }
        )
    return entries
