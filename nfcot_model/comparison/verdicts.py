"""Causal verdicts beside a comparison: what `nfcot causal` said of the models that are in it.

nfcot trace OUT/train/coconut-0/joint/model problems.jsonl -o runs/coconut
nfcot causal runs/coconut -o OUT/causal/coconut-0
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object

__all__ = ["kept_verdicts", "verdict_words"]


def kept_verdicts(out: Path, name: str, seed: int, checkpoint: str) -> dict[str, str]:
    """The verdict of each task in OUT/causal/NAME-SEED/causal.json; empty where there is none.

    Raises UserError when the study is of another checkpoint, or the file is not one of a study.
    """
    path = out / "causal" / f"{name}-{seed}" / "causal.json"
    if not path.exists():
        return {}
    found = read_json_object(path)
    if found.get("checkpoint_hash") != checkpoint:
        raise UserError(
            f"{path}: is of another checkpoint ({found.get('checkpoint_hash')}, not {checkpoint});"
            " move it away, or run `nfcot causal` on a run of this one"
        )
    try:
        return {str(task["task"]): str(task["verdict"]) for task in found["tasks"]}
    except (KeyError, TypeError):
        raise UserError(f"{path}: names no tasks with verdicts; run `nfcot causal` again") from None


def verdict_words(verdicts: Mapping[str, str]) -> str:
    """One word where all tasks have the same verdict, else each task's."""
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return ", ".join(f"{task} {said}" for task, said in verdicts.items())
