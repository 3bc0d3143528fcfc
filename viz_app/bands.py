"""How unusual is each thought of a trace among the thoughts at the same position?"""

from __future__ import annotations

import pandas as pd

__all__ = ["LEVELS", "MEASURES", "decode_match", "reference_band"]

LEVELS = (0.01, 0.05, 0.50, 0.95, 0.99)

MEASURES = {
    "energy": "energy ½‖eps/tau‖² (no unit)",
    "logp": "log p(u_k | prompt, earlier u) (nats)",
    "logvol": "log-volume −Σ log sigma (nats)",
}
"""Axis title of each per-thought measure."""


def reference_band(thoughts: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Between which values does `measure` usually lie at each position k?

    Index k; columns q01, q05, q50, q95, q99 and n, the thoughts behind them. Empirical quantiles of
    one measure at one position: the outer ones are only as good as n, and a trajectory can leave
    them somewhere by chance alone, so this is a picture and not a test.
    """
    groups = thoughts.groupby("k")[measure]
    band = groups.quantile(list(LEVELS)).unstack()
    band.columns = [f"q{round(100 * level):02d}" for level in LEVELS]
    return band.assign(n=groups.count())


def decode_match(matches: pd.Series) -> float | None:
    """Which share of thoughts decodes to its reference step? None where there is no reference."""
    known = matches.dropna()
    return float(known.astype(float).mean()) if len(known) else None
