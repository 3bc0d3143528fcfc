"""The model that thought a run, found again."""

from __future__ import annotations

from pathlib import Path

from nfcot_model.checkpoints import SHIPPED
from nfcot_model.errors import UserError
from nfcot_model.reasoners import WITH_DENSITY, NFCoTReasoner, Reasoner, load_reasoner
from nfcot_model.traces.reader import Run

__all__ = ["model_of", "reasoner_of", "refuse_other_model"]


def model_of(run: Run, model: Path | str | None = None, device: str = "cpu") -> NFCoTReasoner:
    """Which NF-CoT model thought this run? For tools that need its density, flow or codec.

    As `reasoner_of`; raises UserError for a run of another kind of reasoner, too.
    """
    kind = run.manifest["reasoner"]
    if kind not in WITH_DENSITY:
        raise UserError(
            f"{run.path}: is of the reasoner '{kind}', this needs thoughts of an NF-CoT model and"
            " the model itself"
        )
    reasoner = reasoner_of(run, model, device)
    assert isinstance(reasoner, NFCoTReasoner)
    return reasoner


def reasoner_of(run: Run, model: Path | str | None = None, device: str = "cpu") -> Reasoner:
    """Which model thought this run? The one its manifest names, or the one given if it is the same.

    Loaded at the run's dtype. Raises UserError when the folder is gone, is of another kind of
    reasoner or holds another checkpoint.
    """
    folder = model or run.manifest.get("model_path") or "demo"
    kinds, dtype = [run.manifest["reasoner"]], run.manifest["decode"]["dtype"]
    try:
        reasoner = load_reasoner(folder, dtype=dtype, device=device, kinds=kinds)
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


def refuse_other_model(run: Run, reasoner: NFCoTReasoner) -> None:
    """Raises UserError unless the model has the checkpoint and dtype that the run names."""
    asked = {
        "checkpoint_hash": run.manifest["checkpoint_hash"],
        "dtype": run.manifest["decode"]["dtype"],
    }
    given = {
        "checkpoint_hash": reasoner.checkpoint_hash,
        "dtype": reasoner.config["dtype"],
    }
    for name, wanted in asked.items():
        if given[name] != wanted:
            raise UserError(
                f"{run.path}: {name} is {wanted}, the model's is {given[name]}; use the model"
                " that made the run"
            )
