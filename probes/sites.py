"""Where does a probe read? `u@3` is thought 3 in space u, `h@2@-1` layer 2 at the last thought."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = ["SPACES", "Site", "SiteRows", "available_sites", "parse_site", "read_site", "site_rows"]

SPACES = ("u", "e", "eps", "mu")
_PATTERN = re.compile(r"(?:(u|e|eps|mu)|h@(-?\d+))@(-?\d+)")


@dataclass(frozen=True)
class Site:
    """One place to read: a space, a thought index k (negative: from the end), a layer for `h`."""

    space: str
    k: int
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.space}@{self.k}" if self.layer is None else f"h@{self.layer}@{self.k}"


@dataclass(frozen=True)
class SiteRows:
    """Which thoughts are at the site? `trace`, `row`: [n], positions in run.traces / run.thoughts.

    `out`: how many traces have no such thought.
    """

    trace: NDArray[np.int64]
    row: NDArray[np.int64]
    out: int


def parse_site(text: str) -> Site:
    """Which site does the text name? Raises UserError with the accepted forms."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UserError(
            f"--site '{text}': expected SPACE@K with SPACE one of {', '.join(SPACES)}, or"
            " h@LAYER@K; K counts thoughts from 0, negative from the end; for example u@3"
        )
    space, layer, k = match.groups()
    return Site(space or "h", int(k), None if layer is None else int(layer))


def available_sites(run: Run) -> str:
    """Which sites does this run have? One line for messages."""
    longest = int(run.traces["K"].max()) if len(run.traces) else 0
    if longest == 0:
        return "none (no trace of the run has a thought)"
    spaces = [*SPACES, *(f"h@{layer}" for layer in range(_layers(run)))]
    indices = f"K in 0..{longest - 1} or -1..-{longest}"
    return f"{', '.join(f'{space}@K' for space in spaces)} with {indices}"


def _layers(run: Run) -> int:
    return int(run.tensor("h").shape[1]) if "h" in run.tensor_names else 0


def site_rows(run: Run, site: Site) -> SiteRows:
    """Which thought of each trace is at the site?

    Raises UserError, listing the sites there are, when no trace has one.
    """
    K = run.traces["K"].to_numpy(dtype=np.int64)
    k = site.k if site.k >= 0 else K + site.k
    has = (k >= 0) & (k < K)
    layers = _layers(run) if site.space == "h" else 0
    missing_layer = site.layer is not None and not -layers <= site.layer < layers
    if missing_layer or not has.any():
        hint = " (trace with --activations all)" if missing_layer and not layers else ""
        raise UserError(
            f"--site {site}: not in {run.name}{hint}; existing sites: {available_sites(run)}"
        )
    first = np.cumsum(K) - K
    trace = np.flatnonzero(has)
    return SiteRows(trace=trace, row=(first + k)[trace], out=int((~has).sum()))


def read_site(run: Run, site: Site, rows: SiteRows) -> NDArray[np.float64]:
    """What stands at the site? [n, D], or [n, d_model] for `h`."""
    if site.layer is None:
        values = run.tensor(site.space)[rows.row]
    else:
        values = run.tensor("h")[rows.row, site.layer]
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise UserError(f"--site {site}: {run.name} holds values there that are not numbers")
    return x
