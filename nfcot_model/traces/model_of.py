"""The model that thought a run, found again."""

from __future__ import annotations

from pathlib import Path

from nfcot_model.checkpoints import SHIPPED
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_nfcot
from nfcot_model.traces.reader import Run

__all__ = ["model_of"]


def model_of(run: Run, model: Path | str | None = None, device: str = "cpu") -> NFCoTReasoner:
    """Which model thought this run? The one its manifest names, or the one given if it is the same.

    Loaded at the run's dtype. Raises UserError when the folder is gone or holds another checkpoint.
    """
    folder = model or run.manifest.get("model_path") or "demo"
    try:
        reasoner = load_nfcot(folder, dtype=run.manifest["decode"]["dtype"], device=device)
    except UserError as error:
        if model is not None or str(folder) in SHIPPED or Path(folder).is_dir():
            raise
        raise UserError(f"{run.path}: its model cannot be loaded ({error}); give --model") from None
    wanted = run.manifest["checkpoint_hash"]
    if reasoner.checkpoint_hash != wanted:
        raise UserError(
            f"{folder}: is checkpoint {reasoner.checkpoint_hash}, the run {run.name} was traced"
            f" with {wanted}; give that one as --model"
        )
    return reasoner
