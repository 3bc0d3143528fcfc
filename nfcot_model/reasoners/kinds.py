"""Which reasoner is made from which model? One table."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from nfcot_model.baseline import BaselineModel
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners.explicit import ExplicitReasoner
from nfcot_model.reasoners.latent import LatentReasoner
from nfcot_model.reasoners.looped import LoopedReasoner
from nfcot_model.reasoners.nfcot import NFCoTReasoner
from nfcot_model.reasoners.protocol import Reasoner
from nfcot_model.reasoners.regressed import RegressedReasoner

__all__ = ["FAMILIES", "KINDS", "WITH_DENSITY", "reasoner_over"]

FAMILIES: dict[str, Any] = {"nfcot": NFCoTModel, "nfcot-baseline": BaselineModel}
"""By the `model_type` of a checkpoint's config.json."""

_REASONERS: dict[str, Any] = {
    "nfcot": NFCoTReasoner,
    "dual": NFCoTReasoner,
    "regressed": RegressedReasoner,
    "text": ExplicitReasoner,
    "direct": LatentReasoner,
    "pause": LatentReasoner,
    "coconut": LatentReasoner,
    "codi": LatentReasoner,
    "looped": LoopedReasoner,
}

KINDS = tuple(_REASONERS)
WITH_DENSITY = ("nfcot", "dual")
"""NF-CoT models: their thoughts have a density, a flow and a codec."""


def reasoner_over(
    model: NFCoTModel | BaselineModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
) -> Reasoner:
    """The reasoner that a model's config says it is."""
    reasoner: Reasoner = _REASONERS[model.config.reasoner](model, tokenizer, checkpoint_hash)
    return reasoner
