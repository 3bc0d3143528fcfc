"""Reading a run: tables as pandas frames, tensors lazily, damage named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from nfcot_model.errors import UserError
from nfcot_model.files import file_hash
from nfcot_model.traces.activations import captured_sites, read_activation
from nfcot_model.traces.manifest import COMPARABLE, field_of, read_manifest, read_problem_set
from nfcot_model.traces.schema import (
    MANIFEST,
    THOUGHTS_SCHEMA,
    TRACES_SCHEMA,
    is_sealed,
    scorer_of,
    shard_paths,
)
from nfcot_model.worlds.problem import Problem

__all__ = [
    "Run",
    "committed_shards",
    "damaged",
    "list_runs",
    "read_run",
    "read_shard",
    "read_traces_file",
    "verify_hash",
]


@dataclass(frozen=True, eq=False)
class Run:
    """What did a reasoner think, on which problems, and how likely was it?

    traces: one row per trace, in the order committed. thoughts: one row per thought, sorted by
    trace, then k. Tensors are aligned with `thoughts` row by row and are read when asked for.
    Everything is as the scorer named in the manifest computed it; other models' opinions are not
    here.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    traces: pd.DataFrame = field(repr=False)
    thoughts: pd.DataFrame = field(repr=False)

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.name

    @property
    def hash(self) -> str:
        """Which run is this? The manifest's content hash, without time and place."""
        return str(self.manifest["hash"])

    @property
    def scorer(self) -> str:
        """Whose density gave the likelihoods? "self", "retrofit", or "none" (they are null)."""
        return scorer_of(self.manifest)

    @property
    def settings(self) -> dict[str, Any]:
        """What must be equal for thoughts of two runs to be comparable? Field -> value.

        Model, tau, who decides when to stop and the budget, prompt template, dtype.
        """
        return {name: field_of(self.manifest, name) for name in COMPARABLE}

    @cached_property
    def D(self) -> int:
        """The width of a thought (0 when the run holds no trace)."""
        shards = self._shards
        return int(self._shape(shards[0], "u")[1]) if shards else 0

    @property
    def tensor_names(self) -> list[str]:
        """Which tensors are stored? u, eps, mu, log_sigma, e and, when captured, h."""
        return self._opened(self._shards[0], lambda f: sorted(f.keys())) if self._shards else []

    def tensor(self, name: str) -> np.ndarray:
        """All rows of one tensor, [rows, ...] float32, row i belonging to `thoughts.iloc[i]`.

        Raises UserError when the run has no such tensor (those it has are listed).
        """
        self._refuse_unknown(name)
        if not self._shards:
            return np.zeros((0, 0), dtype=np.float32)
        parts = [self._opened(s, lambda f: f.get_tensor(name)) for s in self._shards]
        return np.concatenate(parts)

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Which shape has one row of a tensor? () when the run holds no trace; reads no values."""
        self._refuse_unknown(name)
        return tuple(self._shape(self._shards[0], name)[1:]) if self._shards else ()

    def trace_tensor(self, name: str, trace_id: str) -> np.ndarray:
        """One trace's rows of a tensor, [K, ...], without reading the rest of the file."""
        self._refuse_unknown(name)
        found = self.traces.loc[self.traces["trace_id"] == trace_id, ["shard", "row", "K"]]
        if found.empty:
            raise UserError(f"{self.path}: holds no trace '{trace_id}'")
        shard, row, K = found.iloc[0]
        if K == 0:  # safetensors takes an empty slice at the end for an error
            return np.zeros((0, *self.row_shape(name)), dtype=np.float32)
        rows = self._opened(str(shard), lambda f: f.get_slice(name)[int(row) : int(row + K)])
        return np.asarray(rows)

    def shard_tensor(self, name: str, shard: str, layer: int | None = None) -> np.ndarray:
        """One shard's rows of a tensor, [rows, ...]; of its second axis only `layer`, if given."""
        self._refuse_unknown(name)
        if layer is None or self._shape(shard, name)[0] == 0:
            whole = np.asarray(self._opened(shard, lambda f: f.get_tensor(name)))
            return whole if layer is None else whole[:, layer]
        return np.asarray(self._opened(shard, lambda f: f.get_slice(name)[:, layer]))

    def activations(self) -> list[str]:
        """Which captured sites can be read at every thought? Hook names (`nfcot activations`)."""
        return captured_sites(self.path, self.hash, self._shards)

    def activation(self, site: str) -> np.ndarray:
        """What stands at a captured site, [rows, ...] float32, row i of `thoughts.iloc[i]`?

        Raises UserError when it was not captured, or its files are damaged.
        """
        return read_activation(self.path, self.hash, self.traces, site)

    def problems(self) -> list[Problem]:
        """Which problems were asked, in which order? Those that `nfcot trace` was given.

        Raises UserError when the run does not carry them (one of an earlier version) or carries
        others than its manifest names.
        """
        return read_problem_set(self.path, self.manifest)

    def problem_labels(self) -> pd.DataFrame:
        """Ground-truth labels of each trace's problem, indexed like `traces`."""
        return _labels(self.traces)

    def step_labels(self) -> pd.DataFrame:
        """Ground-truth labels of each thought's step, indexed like `thoughts`."""
        return _labels(self.thoughts)

    def label_columns(self) -> list[str]:
        """Which labels can be asked for? Those of steps, then those of problems."""
        return list(dict.fromkeys([*self.step_labels(), *self.problem_labels()]))

    @cached_property
    def _shards(self) -> list[str]:
        return [str(shard) for shard in pd.unique(self.traces["shard"])]

    def _refuse_unknown(self, name: str) -> None:
        if self._shards and name not in self.tensor_names:
            hint = "; capture it with --activations" if name == "h" else ""
            raise UserError(
                f"{self.path}: no tensor '{name}'; it has {', '.join(self.tensor_names)}{hint}"
            )

    def _shape(self, shard: str, name: str) -> list[int]:
        return self._opened(shard, lambda f: f.get_slice(name).get_shape())

    def _opened(self, shard: str, read: Callable[[Any], Any]) -> Any:
        path = shard_paths(self.path, shard)[0]
        try:
            with safe_open(path, framework="np") as stream:
                return read(stream)
        except (SafetensorError, OSError) as error:
            raise damaged(path, str(error)) from None


def read_run(path: Path | str, verify: bool = True) -> Run:
    """What is in a run? Reads the committed shards only.

    verify: check every byte of every committed file against its hash first. Without it, damage
    that leaves a file readable goes unseen. Raises UserError for a folder that is not a run, a
    format version that is not ours, and a missing or damaged file, which it names.
    """
    path = Path(path)
    manifest = read_manifest(path)
    traces, thoughts = [], []
    for shard in committed_shards(path):
        trace_table, thought_table = read_shard(path, shard, verify)
        traces.append(trace_table.replace_schema_metadata(None))
        thoughts.append(thought_table)
    trace_frame = pa.concat_tables([TRACES_SCHEMA.empty_table(), *traces]).to_pandas()
    trace_frame["steps"] = [list(steps) for steps in trace_frame["steps"]]
    thought_frame = pa.concat_tables([THOUGHTS_SCHEMA.empty_table(), *thoughts]).to_pandas()
    thought_frame["match"] = thought_frame["match"].astype("boolean")
    return Run(path.resolve(), manifest, trace_frame, thought_frame)


def read_shard(path: Path, shard: str, verify: bool) -> tuple[pa.Table, pa.Table]:
    """One shard's (traces, thoughts) tables; the traces' metadata names the other files' hashes."""
    tensors_path, thoughts_path, traces_path = shard_paths(path, shard)
    traces = read_traces_file(traces_path)
    if verify:
        verify_hash(tensors_path, traces.schema.metadata[b"tensors_sha256"])
        verify_hash(thoughts_path, traces.schema.metadata[b"thoughts_sha256"])
    thoughts = _read_table(thoughts_path, THOUGHTS_SCHEMA)
    if thoughts.num_rows != sum(traces["K"].to_pylist()):
        raise damaged(thoughts_path, "its rows are not those of the shard's traces")
    return traces, thoughts


def committed_shards(path: Path) -> list[str]:
    """Which shards are whole? Those with a traces file, in order."""
    return sorted(p.stem for p in (path / "traces").glob("[!.]*.parquet"))


def list_runs(runs_dir: Path | str) -> list[Path]:
    """Which folders directly under `runs_dir` are runs, by name? Raises UserError if it is none."""
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the runs")
    return sorted(child for child in folder.iterdir() if (child / MANIFEST).is_file())


def read_traces_file(path: Path) -> pa.Table:
    """One shard's traces with the hashes of its other files; raises UserError when damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, str(error)) from None
    if not is_sealed(data):
        raise damaged(path, "its seal does not fit its bytes")
    return _read_table(pa.BufferReader(data), TRACES_SCHEMA, path)


def _read_table(source: Any, schema: pa.Schema, path: Path | None = None) -> pa.Table:
    try:
        table = pq.ParquetFile(source, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise damaged(path or source, str(error).splitlines()[0]) from None
    if table.column_names != schema.names:
        raise damaged(path or source, "its columns are not those of the format")
    return table.cast(schema.with_metadata(table.schema.metadata))


def verify_hash(path: Path, expected: bytes) -> None:
    """Raises UserError unless the file's SHA-256 is `expected`, in hex."""
    try:
        found = file_hash(path)
    except OSError as error:
        raise damaged(path, str(error)) from None
    if found.encode() != expected:
        raise damaged(path, "its hash is not the committed one")


def damaged(path: Path, reason: str) -> UserError:
    """What to say of a file that cannot be trusted."""
    return UserError(
        f"{path}: damaged or missing ({reason}); run `nfcot run fsck --repair` on its run,"
        " then repeat the trace command"
    )


def _labels(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([json.loads(text) for text in frame["labels"]], index=frame.index)
