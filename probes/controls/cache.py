"""States computed for controls, kept beside the run with the proofs of captured activations.

    derived/controls/<hash>/manifest.json         which states, of which run and checkpoint
    derived/controls/<hash>/<shard>.safetensors   their arrays, float32

A file proves its bytes and what it was made from: the set's inputs, the shard's traces, prompts,
thoughts and noise. Whatever does not prove that is made again, and never read. The manifest is
for people; nothing is read by it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from nfcot_model import __version__
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, write_json
from nfcot_model.traces import Run
from nfcot_model.traces.activations import (
    MANIFEST,
    ActivationSet,
    is_whole,
    new_set,
    read_arrays,
    thoughts_hash,
    write_activations,
)
from nfcot_model.traces.writer import writing

__all__ = ["Make", "control_set", "fill", "missing_shards", "read_rows"]

FORMAT_VERSION = 1
KIND = "controls"
LIBRARIES = ("torch", "transformers", "numpy", "safetensors")

Make = Callable[[str, pd.DataFrame], Mapping[str, np.ndarray]]
"""A shard's name and its traces -> its arrays."""


def control_set(run: Run, states: str, **inputs: Any) -> ActivationSet:
    """Where do these states of this run belong? Needs no model; writes nothing."""
    identity = {
        "format_version": FORMAT_VERSION,
        "states": states,
        "run_hash": run.hash,
        "checkpoint_hash": run.manifest["checkpoint_hash"],
        "dtype": run.manifest["decode"]["dtype"],
        "stored": "float32",
        "inputs": inputs,
        "versions": {"nfcot-scope": __version__, "python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
    }
    return new_set(run.path, identity, KIND)


def missing_shards(run: Run, target: ActivationSet, arrays: Sequence[str]) -> list[str]:
    """Which shards have no file, or one that cannot prove every byte of these arrays?"""
    return [
        shard
        for shard, part in shards_of(run)
        if not is_whole(target.file(shard), arrays, _made_from(run, target, shard, part))
    ]


def fill(
    run: Run,
    target: ActivationSet,
    missing: Sequence[str],
    make: Make,
    progress: Callable[[int], object],
) -> None:
    """Make the missing shards, each whole or not at all, so that a killed one goes on after it.

    progress: called with the number of traces that are there. Raises UserError when another
    process makes the same and where the folder cannot be written or the disk is full.
    """
    try:
        target.folder.mkdir(parents=True, exist_ok=True)
        with writing(target.folder):
            write_json(target.folder / MANIFEST, target.manifest)
            for shard, part in shards_of(run):
                if shard in missing:
                    made_from = _made_from(run, target, shard, part)
                    write_activations(target.file(shard), make(shard, part), made_from)
                progress(len(part))
    except OSError as error:
        raise UserError(f"{target.folder}: cannot be written ({error.strerror or error})") from None


def read_rows(run: Run, target: ActivationSet, array: str) -> np.ndarray:
    """One array of all shards, rows in the order of the run's.

    Raises UserError, naming the file, when one is missing, damaged or of anything else.
    """
    parts = [
        read_arrays(target.file(shard), [array], _made_from(run, target, shard, part))[array]
        for shard, part in shards_of(run)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def shards_of(run: Run) -> list[tuple[str, pd.DataFrame]]:
    """The run's traces by shard, in the run's order."""
    return [(str(name), part) for name, part in run.traces.groupby("shard", sort=False)]


def _made_from(run: Run, target: ActivationSet, shard: str, part: pd.DataFrame) -> str:
    noise = None
    if "eps" in run.tensor_names:
        drawn = np.ascontiguousarray(run.shard_tensor("eps", shard))
        noise = hashlib.sha256(drawn.data).hexdigest()
    return content_hash([target.folder.name, thoughts_hash(part), part["prompt"].tolist(), noise])
