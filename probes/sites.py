"""Where does a probe read? A site is a space and a place: `u@3`, `h@2@-1`, `eps@mean`.

Spaces: the run's tensors, `h@LAYER` with layers numbered as in the model (the embeddings 0,
whatever part of them a run stores), and hooks that `nfcot activations` has captured, such as
`blocks.1.hook_out`. Places: which thoughts of a trace are read, and how they become one row. Traces
of different K are handled by index; a trace without the place is out and counted, never padded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from nfcot_model.traces.schema import NO_SCORER

__all__ = [
    "PLACES",
    "SPACES",
    "Place",
    "Site",
    "SiteRows",
    "available_sites",
    "parse_place",
    "parse_site",
    "real_site",
    "site_rows",
    "step_rows",
    "stored_layers",
    "sweep_sites",
]

SPACES = ("u", "e", "eps", "mu")
PLACES = "K, stepJ, mean, max, last, rollmax, concat, concatN, concat-N or all"
_NUMBER = r"-?[0-9]{1,9}"
_HOOK = r"[A-Za-z_]\w*(?:\.\w+)+"
_SPACE = rf"(u|e|eps|mu|{_HOOK})|h@({_NUMBER})"
_PLACE = rf"(step|concat)?({_NUMBER})|(mean|max|last|rollmax|concat|all)"
_SITE = re.compile(rf"(?:{_SPACE})@({_PLACE})", re.ASCII)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Which thoughts of a trace, and how do they become one row?

    `how`: `k` (thought n), `step` (the last thought of step n), `mean`, `max`, `rollmax` (the
    largest mean of two neighbours, value by value), `concat` (side by side: the first n, the last
    -n, all for None) or `all` (a ragged list). Negative n of `k` and `step` count from the end.
    """

    how: str
    n: int | None = None

    def __str__(self) -> str:
        number = "" if self.n is None else str(self.n)
        return number if self.how == "k" else self.how + number

    @property
    def single(self) -> bool:
        """Is one thought read, whose own step is known?"""
        return self.how in ("k", "step")

    @property
    def lacking(self) -> str:
        """What has a trace not that is out?"""
        if self.how == "concat" and self.n is not None:
            return f"fewer than {abs(self.n)} thoughts"
        return {"k": f"no thought {self.n}", "step": f"no step {self.n}"}.get(
            self.how, "no thought"
        )


@dataclass(frozen=True)
class Site:
    """One place to read: a space or a hook, a place in the trace, a layer for `h`."""

    space: str
    place: Place
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.source}@{self.place}"

    @property
    def source(self) -> str:
        """Which space, with its layer? Sites of one source read the same array."""
        return self.space if self.layer is None else f"{self.space}@{self.layer}"

    @property
    def captured(self) -> bool:
        """Is it a hook, whose activations were added to the run?"""
        return self.layer is None and self.space not in SPACES


@dataclass(frozen=True)
class SiteRows:
    """Which thoughts are at the site? Rows first .. first + count - 1 of `run.thoughts`.

    `trace` [n]: position in `run.traces`; `first`, `count`: [n]. `out`: how many traces have no
    such thought.
    """

    trace: Ints
    first: Ints
    count: Ints
    out: int

    @property
    def last(self) -> Ints:
        """The row of the place's last thought. [n]"""
        return self.first + self.count - 1

    def where(self, keep: NDArray[np.bool_]) -> SiteRows:
        """Those rows only; `out` stays."""
        return SiteRows(self.trace[keep], self.first[keep], self.count[keep], self.out)


def parse_place(text: str) -> Place | None:
    """Which place does the text name? None when it names none; `last` is -1."""
    match = re.fullmatch(_PLACE, text, re.ASCII)
    if match is None:
        return None
    how, number, word = match.groups()
    if word is not None:
        return Place("k", -1) if word == "last" else Place(word)
    return None if how == "concat" and int(number) == 0 else Place(how or "k", int(number))


def parse_site(text: str) -> Site:
    """Which site does the text name? Raises UserError with the accepted forms."""
    match = _SITE.fullmatch(text)
    place = parse_place(match.group(3)) if match else None
    if match is None or place is None:
        raise UserError(
            f"--site '{text}': expected SPACE@PLACE with SPACE one of {', '.join(SPACES)}, h@LAYER"
            f" or a captured hook such as blocks.1.hook_out, and PLACE one of {PLACES}; K and J"
            " count thoughts and steps from 0, negative from the end, at most nine digits; for"
            " example u@3 or h@2@mean"
        )
    space, layer = match.group(1), match.group(2)
    return Site(space or "h", place, None if layer is None else int(layer))


def available_sites(run: Run) -> str:
    """Which sites does this run have? One line for messages."""
    longest = _longest(run)
    if longest == 0:
        return "none (no trace of the run has a thought)"
    indices = f"K in 0..{longest - 1} or -1..-{longest}"
    return (
        f"{', '.join(f'{source}@K' for source in _sources(run))} with {indices}"
        f" (instead of K also {PLACES.removeprefix('K, ')})"
    )


def _longest(run: Run) -> int:
    return int(run.traces["K"].max()) if len(run.traces) else 0


def _sources(run: Run) -> list[str]:
    spaces = [space for space in SPACES if space in run.tensor_names]
    return [*spaces, *(f"h@{layer}" for layer in stored_layers(run)), *run.activations()]


def stored_layers(run: Run) -> list[int]:
    """Which layers of `h` does the run have, by their numbers in the model?

    Every layer, the embeddings first, or with `--activations thoughts` the last one, whose number
    the run does not say: -1.
    """
    if "h" not in run.tensor_names:
        return []
    return [-1] if run.manifest["activations"] == "thoughts" else [*range(run.row_shape("h")[0])]


def real_site(run: Run, site: Site) -> Site:
    """The site with its layer's number in the model, -1 where only the last layer is stored.

    Raises UserError, listing the sites there are, when the run has no such space, no such layer or
    no captured activations of such a hook.
    """
    if site.captured and site.space not in run.activations():
        raise UserError(
            f"--site {site}: not in {run.name} (capture it: `nfcot activations {run.path} --sites"
            f" {site.space}`); existing sites: {available_sites(run)}"
        )
    if site.layer is None:
        if len(run.traces) and not site.captured and site.space not in run.tensor_names:
            why = " (its thoughts have no density)" if run.scorer == NO_SCORER else ""
            raise UserError(
                f"--site {site}: {run.name} has no {site.space}{why}; existing sites:"
                f" {available_sites(run)}"
            )
        return site
    layers = stored_layers(run)
    layer = site.layer + len(layers) if site.layer < 0 and layers != [-1] else site.layer
    if layer not in layers:
        hint = "" if layers else " (trace with --activations all)"
        raise UserError(
            f"--site {site}: not in {run.name}{hint}; existing sites: {available_sites(run)}"
        )
    return replace(site, layer=layer)


def site_rows(run: Run, site: Site) -> SiteRows:
    """Which thoughts of each trace are at the site?

    Raises UserError, listing the sites there are, when no trace has one, and when `concat` meets
    traces of different K.
    """
    real_site(run, site)
    K = run.traces["K"].to_numpy(dtype=np.int64)
    first, count = np.cumsum(K) - K, K
    how, n = site.place.how, site.place.n
    if how == "k" and n is not None:
        k = n if n >= 0 else K + n
        first, count = first + k, ((k >= 0) & (k < K)).astype(np.int64)
    elif how == "step" and n is not None:
        first = step_rows(run, n)
        count = (first >= 0).astype(np.int64)
    elif how == "concat":
        if n is None:
            _refuse_ragged(run, site, K)
        else:
            first = first if n > 0 else first + K + n
            count = np.where(abs(n) <= K, abs(n), 0)
    trace = np.flatnonzero(count)
    if not trace.size:
        raise UserError(f"--site {site}: not in {run.name}; existing sites: {available_sites(run)}")
    return SiteRows(trace, first[trace], count[trace], int(K.size - trace.size))


def _refuse_ragged(run: Run, site: Site, K: Ints) -> None:
    lengths = np.unique(K[K > 0])
    if lengths.size > 1:
        least = lengths[0]
        raise UserError(
            f"--site {site}: traces of {run.name} have {least} to {lengths[-1]} thoughts, side by"
            f" side they give rows of different width; read {site.source}@concat{least} (the first"
            f" {least}) or {site.source}@concat-{least} (the last)"
        )


def step_rows(run: Run, step: int | Ints) -> Ints:
    """In which row of `run.thoughts` is the last thought of a step? [traces], -1 for no such step.

    `step`: one for all traces (negative: from the end of each) or [traces] (negative: none).
    """
    K = run.traces["K"].to_numpy(dtype=np.int64)
    owner = np.repeat(np.arange(K.size), K)
    steps = run.thoughts["step"].to_numpy(dtype=np.int64)
    if isinstance(step, np.ndarray):
        wanted = step
    elif step >= 0:
        wanted = np.full(K.size, step, dtype=np.int64)
    else:
        wanted = np.full(K.size, -1, dtype=np.int64)
        np.maximum.at(wanted, owner, steps)
        wanted += 1 + step
    rows = np.full(K.size, -1, dtype=np.int64)
    there = np.flatnonzero(steps == wanted[owner])
    np.maximum.at(rows, owner[there], there)
    return rows


def sweep_sites(
    run: Run, spaces: list[str] | None = None, places: list[str] | None = None
) -> list[Site]:
    """Which sites does a sweep read? Those of a heat-map, row by row: spaces, then places.

    spaces: `u`, `h` (all layers), `h@2`, a captured hook; all that the run has when None.
    places: as in a site; every thought index of the longest trace when None. A site that is named
    twice is read once. Raises UserError for a space or place that the run does not have.
    """
    if places is None:
        places = [str(k) for k in range(_longest(run))]
    sources = _sources(run) if spaces is None else spaces
    layers = [f"h@{layer}" for layer in stored_layers(run)] or ["h@-1"]  # the last: refused below
    sources = [s for source in sources for s in (layers if source == "h" else [source])]
    found: dict[Site, None] = {}
    for source in sources:
        for place in places:
            site = real_site(run, parse_site(f"{source}@{place}"))
            site_rows(run, site)
            found[site] = None
    if not found:
        raise UserError(f"{run.name}: nothing to sweep; existing sites: {available_sites(run)}")
    return list(found)
