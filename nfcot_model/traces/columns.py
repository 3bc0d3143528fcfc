"""Some columns and tensors of one shard, for readers who go through a large run shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from nfcot_model.traces.reader import damaged, verify_hash
from nfcot_model.traces.schema import is_sealed, shard_paths

__all__ = ["read_columns", "read_tensors"]


def read_columns(
    run: Path, shard: str, traces: Sequence[str], thoughts: Sequence[str]
) -> tuple[pa.Table, pa.Table]:
    """These columns of a shard's traces and thoughts; every byte of the shard is checked first.

    Raises UserError for a missing or damaged file, which it names.
    """
    tensors_path, thoughts_path, traces_path = shard_paths(run, shard)
    try:
        data = traces_path.read_bytes()
    except OSError as error:
        raise damaged(traces_path, str(error)) from None
    if not is_sealed(data):
        raise damaged(traces_path, "its seal does not fit its bytes")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        verify_hash(tensors_path, file.metadata.metadata[b"tensors_sha256"])
        verify_hash(thoughts_path, file.metadata.metadata[b"thoughts_sha256"])
        trace_table = file.read(columns=list(traces), use_threads=False)
        thought_table = pq.ParquetFile(thoughts_path).read(
            columns=list(thoughts), use_threads=False
        )
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(traces_path, str(error).splitlines()[0]) from None
    return trace_table, thought_table


def read_tensors(run: Path, shard: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These tensors of one shard, [rows, ...] each. Raises UserError for a damaged file."""
    path = shard_paths(run, shard)[0]
    try:
        with safe_open(path, framework="np") as stream:
            return {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
