"""Clean sets on disk, so that a validation that goes on need not think them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from analyses.plants.recorded import Recorded, seal
from nfcot_model.errors import UserError
from nfcot_model.files import write_bytes
from nfcot_model.thoughts import Scores, Thoughts
from nfcot_model.worlds import Problem

__all__ = ["keep", "kept"]


def keep(recorded: Recorded, path: Path) -> None:
    """Write the tensors of these records; problems, seeds and tau are those of the settings."""
    tensors: dict[str, Tensor] = {}
    for part in (recorded.thoughts, recorded.scores):
        kind = type(part).__name__
        for name in type(part).__dataclass_fields__:
            value = getattr(part, name)
            if value is not None:
                tensors[f"{kind}.{name}"] = value.contiguous().clone()
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, save(tensors))


def kept(path: Path, problems: Sequence[Problem], seeds: Sequence[int], tau: float) -> Recorded:
    """The records that `keep` wrote. Raises UserError for a damaged file."""
    try:
        tensors = load_file(path)
        thoughts = Thoughts(**_of("Thoughts", Thoughts, tensors))
        scores = Scores(**_of("Scores", Scores, tensors))
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and repeat the command") from None
    if len(thoughts) != len(problems):
        raise UserError(f"{path}: damaged ({len(thoughts)} trajectories of {len(problems)})")
    return Recorded(list(problems), list(seeds), seal(thoughts), tau, thoughts, scores)


def _of(
    kind: str, record: type[Thoughts] | type[Scores], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    optional = {"hidden"}
    return {
        name: tensors.get(f"{kind}.{name}") if name in optional else tensors[f"{kind}.{name}"]
        for name in record.__dataclass_fields__
    }
