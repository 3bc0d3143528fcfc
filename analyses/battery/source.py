"""Where does noise come from? Runs in memory, runs on disk, plain arrays, or a choice of traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analyses.battery.noise import BLOCK_VALUES, Noise, joined
from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from nfcot_model.traces.columns import read_columns, read_tensors
from nfcot_model.traces.manifest import read_manifest
from nfcot_model.traces.reader import committed_shards
from nfcot_model.traces.schema import NO_SCORER, OWN_SCORER, RETROFIT_SCORER, scorer_of

__all__ = ["Selection", "Source", "blocks_of", "positive_tau", "run_noise", "shard_noise"]

Floats = NDArray[np.float64]

TRACE_COLUMNS = ("trace_id", "group", "world", "K", "tau")
TENSORS = {OWN_SCORER: ("u", "mu", "log_sigma", "eps"), RETROFIT_SCORER: ("eps",)}
"""By the scorer of a run: which tensors its noise comes from."""
THOUGHT_COLUMNS = ("energy", "logp")


@dataclass(frozen=True, eq=False)
class Selection:
    """Some traces of a run: `keep` [n], in the order of `run.traces`."""

    run: Run
    keep: NDArray[np.bool_]


Source = Run | Path | Noise | Selection
"""A path is a run's folder: it is read shard by shard, whatever its size, every byte checked."""


def blocks_of(source: Source | Iterable[Source], features: str | None = None) -> Iterator[Noise]:
    """The noise of a source, or of several, in blocks of bounded size and in order.

    features: `h` (the last stored layer) or, for a run in memory, a captured site. Raises UserError
    at tau = 0, for a run without a density, for traces that disagree with the run about tau, and
    for damaged files.
    """
    if isinstance(source, Noise):
        yield from source.blocks()
    elif isinstance(source, Run):
        yield from _blocks(_of_run(source, features, None))
    elif isinstance(source, Selection):
        yield from _blocks(_of_run(source.run, features, source.keep))
    elif isinstance(source, Path):
        tau = positive_tau(read_manifest(source), source.name)
        shards = committed_shards(source)
        yield from _blocks(shard_noise(source, shard, tau, features) for shard in shards)
    else:
        for one in source:
            yield from blocks_of(one, features)


def run_noise(run: Run | Path, features: str | None = None) -> Noise:
    """All of a run's noise at once, for runs that fit in memory. Raises UserError when empty."""
    parts = list(blocks_of(run, features))
    if not parts:
        raise UserError(f"{run.name}: holds no traces; trace some problems into it")
    return joined(parts)


def positive_tau(manifest: dict[str, Any], name: str) -> float:
    """A run's tau. Raises UserError at 0, where thoughts are means and carry no noise.

    Also for a run without a density, whose thoughts have no noise at any tau.
    """
    if scorer_of(manifest) == NO_SCORER:
        raise UserError(
            f"{name}: '{manifest['reasoner']}' thoughts have no density, so there is no noise to"
            " score; give them one first (nfcot run retrofit, then nfcot run rescore)"
        )
    tau = float(manifest["decode"]["tau"])
    if tau <= 0:
        raise UserError(
            f"{name}: traced at tau {tau:g}, so its thoughts carry no noise and there is"
            " nothing to score; trace with --tau above 0"
        )
    return tau


def shard_noise(run: Path, shard: str, tau: float, features: str | None = None) -> Noise:
    """One committed shard of a run on disk."""
    if features not in (None, "h"):
        raise UserError(
            f"{run.name}: captured site {features} is not read shard by shard; calibrate with"
            " --features h or without, or use nfcot audit run"
        )
    names = TENSORS[scorer_of(read_manifest(run))]
    traces, thoughts = read_columns(run, shard, TRACE_COLUMNS, THOUGHT_COLUMNS)
    tensors = read_tensors(run, shard, [*names, "h"] if features else names)
    columns = {name: traces[name].to_numpy() for name in TRACE_COLUMNS}
    states = tensors["h"][:, -1] if features else None
    stored = {name: _floats(thoughts[name]) for name in THOUGHT_COLUMNS}
    return _noise(run.name, tau, columns, stored, tensors, states)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _of_run(run: Run, features: str | None, keep: NDArray[np.bool_] | None) -> Iterator[Noise]:
    tau = positive_tau(run.manifest, run.name)
    site = None if features in (None, "h") else run.activation(str(features))
    stored = {name: run.thoughts[name].to_numpy(dtype=np.float64) for name in THOUGHT_COLUMNS}
    row = 0
    for shard, traces in run.traces.groupby("shard", sort=False):
        rows = slice(row, row + int(traces["K"].sum()))
        row = rows.stop
        if keep is not None and not keep[traces.index].any():
            continue
        tensors = read_tensors(run.path, str(shard), TENSORS[run.scorer])
        columns = {name: traces[name].to_numpy() for name in TRACE_COLUMNS}
        states = None if site is None else site[rows].reshape(rows.stop - rows.start, -1)
        if features == "h":
            states = run.shard_tensor("h", str(shard))[:, -1]
        own = {name: values[rows] for name, values in stored.items()}
        part = _noise(run.name, tau, columns, own, tensors, states)
        yield part if keep is None else part.take(keep[traces.index])


def _noise(
    name: str,
    tau: float,
    traces: dict[str, NDArray[Any]],
    stored: dict[str, Floats],
    tensors: dict[str, NDArray[np.float32]],
    states: NDArray[np.float32] | None,
) -> Noise:
    other = np.flatnonzero(traces["tau"] != tau)
    if other.size:
        i = other[0]
        raise UserError(
            f"{name}: mixed tau, trace {traces['trace_id'][i]} says {traces['tau'][i]:g} and the"
            f" manifest {tau:g}; one run has one tau, trace them into runs of their own"
        )
    eps, logvol, away = _recomputed(tensors, stored["logp"])
    error = np.zeros(len(traces["K"]))
    owner = np.repeat(np.arange(error.size), traces["K"])
    np.maximum.at(error, owner, np.where(np.isnan(away), np.inf, away))
    return Noise(
        x=eps / tau,
        K=traces["K"].astype(np.int64),
        ids=traces["trace_id"].astype(object),
        groups=traces["group"].astype(object),
        tasks=traces["world"].astype(object),
        logvol=logvol,
        replay_error=error,
        stored_energy=stored["energy"],
        features=states,
        tau=tau,
    )


def _recomputed(
    tensors: dict[str, NDArray[np.float32]], logp: Floats
) -> tuple[Floats, Floats, Floats]:
    """Noise, log-volume, and how far each thought's noise is from the record of its draw.

    A retrofit flow's noise was never drawn: it is taken as stored, away from nothing, and the
    volume is what `logp` has besides it.
    """
    drawn = tensors["eps"].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if "mu" not in tensors:
            noise_part = 0.5 * (np.square(drawn) + np.log(2 * np.pi)).sum(axis=1)
            return drawn, logp + noise_part, np.zeros(len(drawn))
        u, mu, log_sigma = (tensors[name].astype(np.float64) for name in ("u", "mu", "log_sigma"))
        eps = (u - mu) * np.exp(-log_sigma)
        away = np.abs(eps - drawn).max(axis=1, initial=0.0)
        return eps, -log_sigma.sum(axis=1), away


def _blocks(parts: Iterable[Noise]) -> Iterator[Noise]:
    """Small parts joined, so that each block is worth the overhead of its operations."""
    pending: list[Noise] = []
    held = 0
    for part in parts:
        pending.append(part)
        held += part.x.size
        if held >= BLOCK_VALUES:
            yield joined(pending)
            pending, held = [], 0
    if pending:
        yield joined(pending)
