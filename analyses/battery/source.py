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
from nfcot_model.traces.reader import committed_shards, read_manifest

__all__ = ["Selection", "Source", "blocks_of", "positive_tau", "run_noise", "shard_noise"]

Floats = NDArray[np.float64]

TRACE_COLUMNS = ("trace_id", "group", "world", "K", "tau")
TENSORS = ("u", "mu", "log_sigma", "eps")


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
    at tau = 0, for traces that disagree with the run about tau, and for damaged files.
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
    """A run's tau. Raises UserError at 0, where thoughts are means and carry no noise."""
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
    traces, thoughts = read_columns(run, shard, TRACE_COLUMNS, ["energy"])
    names = [*TENSORS, "h"] if features else [*TENSORS]
    tensors = read_tensors(run, shard, names)
    columns = {name: traces[name].to_numpy() for name in TRACE_COLUMNS}
    states = tensors["h"][:, -1] if features else None
    return _noise(run.name, tau, columns, _floats(thoughts["energy"]), tensors, states)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _of_run(run: Run, features: str | None, keep: NDArray[np.bool_] | None) -> Iterator[Noise]:
    tau = positive_tau(run.manifest, run.name)
    site = None if features in (None, "h") else run.activation(str(features))
    energies = run.thoughts["energy"].to_numpy(dtype=np.float64)
    row = 0
    for shard, traces in run.traces.groupby("shard", sort=False):
        rows = slice(row, row + int(traces["K"].sum()))
        row = rows.stop
        if keep is not None and not keep[traces.index].any():
            continue
        tensors = read_tensors(run.path, str(shard), TENSORS)
        columns = {name: traces[name].to_numpy() for name in TRACE_COLUMNS}
        states = None if site is None else site[rows].reshape(rows.stop - rows.start, -1)
        if features == "h":
            states = run.shard_tensor("h", str(shard))[:, -1]
        part = _noise(run.name, tau, columns, energies[rows], tensors, states)
        yield part if keep is None else part.take(keep[traces.index])


def _noise(
    name: str,
    tau: float,
    traces: dict[str, NDArray[Any]],
    energies: Floats,
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
    u, mu, log_sigma, drawn = (tensors[tensor].astype(np.float64) for tensor in TENSORS)
    with np.errstate(over="ignore", invalid="ignore"):
        eps = (u - mu) * np.exp(-log_sigma)
        away = np.abs(eps - drawn).max(axis=1, initial=0.0)
        logvol = -log_sigma.sum(axis=1)
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
        stored_energy=energies,
        features=states,
        tau=tau,
    )


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
