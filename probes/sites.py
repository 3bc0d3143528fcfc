"""Where does a probe read? `u@3` is thought 3 in space u, `h@2@-1` layer 2 at the last thought.

`blocks.1.hook_out@-1` is a hook at the last thought, once `nfcot activations` has captured it.
Layers are numbered as in the model, the embeddings 0, whatever part of them a run stores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = [
    "SPACES",
    "Site",
    "SiteRows",
    "available_sites",
    "parse_site",
    "read_site",
    "real_site",
    "site_rows",
]

SPACES = ("u", "e", "eps", "mu")
_HOOK = r"[A-Za-z_]\w*(?:\.\w+)+"
_PATTERN = re.compile(rf"(?:(u|e|eps|mu|{_HOOK})|h@(-?[0-9]{{1,9}}))@(-?[0-9]{{1,9}})", re.ASCII)


@dataclass(frozen=True)
class Site:
    """One place to read: a space or a hook, a thought index k (negative: from the end), a layer
    for `h`.
    """

    space: str
    k: int
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.space}@{self.k}" if self.layer is None else f"h@{self.layer}@{self.k}"

    @property
    def captured(self) -> bool:
        """Is it a hook, whose activations were added to the run?"""
        return self.layer is None and self.space not in SPACES


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
            " h@LAYER@K or a captured hook such as blocks.1.hook_out@K; K counts thoughts from 0,"
            " negative from the end, at most nine digits; for example u@3"
        )
    space, layer, k = match.groups()
    return Site(space or "h", int(k), None if layer is None else int(layer))


def available_sites(run: Run) -> str:
    """Which sites does this run have? One line for messages."""
    longest = int(run.traces["K"].max()) if len(run.traces) else 0
    if longest == 0:
        return "none (no trace of the run has a thought)"
    spaces = [*SPACES, *(f"h@{layer}" for layer in _layers(run)), *run.activations()]
    indices = f"K in 0..{longest - 1} or -1..-{longest}"
    return f"{', '.join(f'{space}@K' for space in spaces)} with {indices}"


def _layers(run: Run) -> list[int]:
    """Which layers of `h` does the run have, by their numbers in the model?

    Every layer, the embeddings first, or with `--activations thoughts` the last one, whose number
    the run does not say: -1.
    """
    if "h" not in run.tensor_names:
        return []
    return [-1] if run.manifest["activations"] == "thoughts" else [*range(run.row_shape("h")[0])]


def real_site(run: Run, site: Site) -> Site:
    """The site with its layer's number in the model, -1 where only the last layer is stored.

    Raises UserError, listing the sites there are, when the run has no such layer or no captured
    activations of such a hook.
    """
    if site.captured and site.space not in run.activations():
        raise UserError(
            f"--site {site}: not in {run.name} (capture it: `nfcot activations {run.path} --sites"
            f" {site.space}`); existing sites: {available_sites(run)}"
        )
    if site.layer is None:
        return site
    layers = _layers(run)
    layer = site.layer + len(layers) if site.layer < 0 and layers != [-1] else site.layer
    if layer not in layers:
        hint = "" if layers else " (trace with --activations all)"
        raise UserError(
            f"--site {site}: not in {run.name}{hint}; existing sites: {available_sites(run)}"
        )
    return replace(site, layer=layer)


def site_rows(run: Run, site: Site) -> SiteRows:
    """Which thought of each trace is at the site?

    Raises UserError, listing the sites there are, when no trace has one.
    """
    K = run.traces["K"].to_numpy(dtype=np.int64)
    k = site.k if site.k >= 0 else K + site.k
    has = (k >= 0) & (k < K)
    real_site(run, site)
    if not has.any():
        raise UserError(f"--site {site}: not in {run.name}; existing sites: {available_sites(run)}")
    first = np.cumsum(K) - K
    trace = np.flatnonzero(has)
    return SiteRows(trace=trace, row=(first + k)[trace], out=int((~has).sum()))


def read_site(run: Run, site: Site, rows: SiteRows) -> NDArray[np.float64]:
    """What stands at the site? [n, D], [n, d_model] for `h`, [n, values] for a captured hook."""
    if site.captured:
        values = run.activation(site.space)[rows.row].reshape(len(rows.row), -1)
    elif site.layer is None:
        values = run.tensor(site.space)[rows.row]
    else:
        values = run.tensor("h")[rows.row, real_site(run, site).layer]
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise UserError(f"--site {site}: {run.name} holds values there that are not numbers")
    return x
