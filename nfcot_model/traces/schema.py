"""What is in a run: file layout, columns, manifest, and the seal that shows damage.

A run is a folder: `run.json`, `problems.jsonl`, `tensors/<shard>.safetensors`,
`thoughts/<shard>.parquet` and `traces/<shard>.parquet`. The traces file of a shard is its commit
point: it names the hashes of the other two files and carries a seal over its own bytes. See
docs/run_format.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nfcot_model.files import content_hash

__all__ = [
    "CIRCUMSTANCES",
    "FORMAT_VERSION",
    "MANIFEST",
    "NO_SCORER",
    "OWN_SCORER",
    "PROBLEMS",
    "RETROFIT_SCORER",
    "SHARD_SIZE",
    "TENSORS",
    "THOUGHTS_SCHEMA",
    "TRACES_SCHEMA",
    "is_sealed",
    "manifest_hash",
    "parquet_bytes",
    "scorer_of",
    "seal",
    "sealed_manifest",
    "shard_name",
    "shard_paths",
    "trace_id",
]

FORMAT_VERSION = 1
SHARD_SIZE = 64
MANIFEST = "run.json"
PROBLEMS = "problems.jsonl"
TENSORS = ("u", "eps", "mu", "log_sigma", "e")
# In a manifest's `scorer`: thoughts without a density, and scored by a flow that was fitted later.
# No such field: the reasoner's own density.
OWN_SCORER, NO_SCORER, RETROFIT_SCORER = "self", "none", "retrofit"
ROW_GROUP_ROWS = 20_000

LOW_CARDINALITY = {
    "traces": ["world", "split", "verdict", "shard"],
    "thoughts": ["shard"],
}

TRACES_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("problem_id", pa.string()),
        ("group", pa.string()),
        ("world", pa.string()),
        ("split", pa.string()),
        ("sample", pa.int32()),
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("reference_answer", pa.string()),
        ("verdict", pa.string()),
        ("verdict_detail", pa.string()),
        ("correct", pa.bool_()),
        ("K", pa.int32()),
        ("stopped", pa.bool_()),
        ("tau", pa.float64()),
        ("logp_u", pa.float64()),
        ("logp_u_K", pa.float64()),
        ("logp_e", pa.float64()),
        ("flow_logdet", pa.float64()),
        ("energy", pa.float64()),
        ("logvol", pa.float64()),
        ("replay_error", pa.float64()),
        ("decode_match", pa.float64()),
        ("steps", pa.list_(pa.string())),
        ("labels", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("u_sha256", pa.string()),
    ]
)

THOUGHTS_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("k", pa.int32()),
        ("step", pa.int32()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("logp", pa.float32()),
        ("energy", pa.float32()),
        ("logvol", pa.float32()),
        ("stop_logp", pa.float32()),
        ("text", pa.string()),
        ("reference", pa.string()),
        ("match", pa.bool_()),
        ("labels", pa.string()),
    ]
)

# Facts of where and when a run was made, not of what it holds: two runs that differ only in
# these are the same run.
CIRCUMSTANCES = frozenset({"created", "model_path", "hash", "checksum"})

_SEAL = re.compile(rb"seal-sha256=([0-9a-f]{64})")
_BLANK = b"seal-sha256=" + b"0" * 64


def shard_name(index: int) -> str:
    """What is block `index` of a run called?"""
    return f"{index:06d}"


def shard_paths(run: Path, shard: str) -> tuple[Path, Path, Path]:
    """Where are a shard's (tensors, thoughts, traces) files, in the order they are written?"""
    return (
        run / "tensors" / f"{shard}.safetensors",
        run / "thoughts" / f"{shard}.parquet",
        run / "traces" / f"{shard}.parquet",
    )


def scorer_of(manifest: Mapping[str, Any]) -> str:
    """Whose density gave a run's likelihoods? "self", "retrofit", or "none" (they are null)."""
    return str(manifest.get("scorer", OWN_SCORER))


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Which run is this? Hash of everything that decides its bytes; not of time and place."""
    return content_hash({k: v for k, v in manifest.items() if k not in CIRCUMSTANCES})


def sealed_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its `hash` (identity) and `checksum` (every field, against damage)."""
    fields = {k: v for k, v in manifest.items() if k != "checksum"}
    fields["hash"] = manifest_hash(fields)
    return fields | {"checksum": content_hash(fields)}


def trace_id(problem_id: str, sample: int, seed: int, run_hash: str) -> str:
    """What is a trace called? The same draw of the same run always has the same id."""
    return content_hash([problem_id, sample, seed, run_hash])


def parquet_bytes(table: pa.Table, kind: str, metadata: Mapping[str, str]) -> bytes:
    """A table as a Parquet file with explicit settings; `kind` is "traces" or "thoughts".

    zstd, dictionaries for low-cardinality columns only, row groups of 20,000, page checksums. The
    Arrow schema is not embedded, so `metadata` appears once in the footer, in plain bytes.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema.remove_metadata(),
        compression="zstd",
        use_dictionary=LOW_CARDINALITY[kind],
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(table.replace_schema_metadata(None), row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(dict(metadata))
    return sink.getvalue().to_pybytes()


def seal(table: pa.Table, kind: str, metadata: Mapping[str, str]) -> bytes:
    """A Parquet file that can prove its own bytes: SHA-256 of the file with the seal blank."""
    data = parquet_bytes(table, kind, {**metadata, "seal": _BLANK.decode()})
    start, end = _seal_span(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + digest + data[end:]


def is_sealed(data: bytes) -> bool:
    """Is every byte of a sealed Parquet file as it was written?"""
    if _SEAL.search(data) is None:
        return False
    start, end = _seal_span(data)
    blank = hashlib.sha256(data[:start])
    blank.update(b"0" * 64)
    blank.update(data[end:])
    return blank.hexdigest().encode() == data[start:end]


def _seal_span(data: bytes) -> tuple[int, int]:
    *_, last = _SEAL.finditer(data)
    return last.span(1)
