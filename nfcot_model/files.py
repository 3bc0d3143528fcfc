"""Atomic files and content hashes: a reader never sees a half-written file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError

__all__ = [
    "canonical_json",
    "content_hash",
    "file_hash",
    "holdings",
    "read_json_object",
    "replacing",
    "write_bytes",
    "write_json",
    "write_text",
]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Which temporary path may I write, so that `path` appears whole or not at all?

    Yields a hidden sibling of `path`; on success it is fsynced and renamed over `path`, on any
    exception it is removed and `path` is left as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a regular file; choose another output file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def holdings(folder: Path) -> set[str]:
    """Which names are in a folder? What a killed `replacing` left behind does not count."""
    return {p.name for p in folder.iterdir() if not (p.name[0] == "." and p.suffix == ".tmp")}


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically (temporary name, fsync, rename)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """Which JSON object is in the file? Raises UserError when there is none that can be used.

    Unreadable, malformed, nested too deeply, not an object, or holding text that UTF-8 has no
    bytes for (a lone surrogate could be neither hashed nor written again): all are one line.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        canonical_json(value).encode()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read as JSON (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces. The basis of every content hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """Are two JSON values equal? 16 hex digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Are two files equal? SHA-256 of the bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
