"""Latent reasoners behind one protocol."""

from nfcot_model.reasoners.kinds import KINDS, WITH_DENSITY
from nfcot_model.reasoners.load import checkpoint_hash, load_nfcot, load_reasoner
from nfcot_model.reasoners.nfcot import NFCoTReasoner
from nfcot_model.reasoners.protocol import Reasoner, ScoresWhileAnswering

__all__ = [
    "KINDS",
    "WITH_DENSITY",
    "NFCoTReasoner",
    "Reasoner",
    "ScoresWhileAnswering",
    "checkpoint_hash",
    "load_nfcot",
    "load_reasoner",
]
