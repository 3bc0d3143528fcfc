"""What an audit cannot see, by its scorer."""

from __future__ import annotations

from nfcot_model.traces.schema import RETROFIT_SCORER

__all__ = ["NEGATIVE_STATEMENT", "cannot_see"]

NEGATIVE_STATEMENT = (
    "Absence of flags bounds only the effects in the table of detector evidence, for traffic"
    " exchangeable with the calibration traces; it is not evidence of aligned reasoning."
)

_SELF = (
    "The scorer is the model itself (`self`): thoughts that a model samples from its own density"
    " give back exactly the noise that was drawn, so a score of that noise carries no information"
    " about intent. A backdoored or deceptive model that thinks on-policy looks perfectly usual"
    " (AUROC 0.50). What can be seen is thoughts that this model, prompt and temperature did not"
    " produce: swapped, edited, injected, replayed, correlated, or drawn at another temperature."
)
_RETROFIT = (
    "The scorer is a flow fitted afterwards on thoughts of this model (`retrofit`): nothing was"
    " ever drawn from it, so there is no record of a draw to replay, and a bad fit costs power."
    " What can be seen is thoughts unlike clean ones, given the words of their prompts. A"
    " backdoored or deceptive model whose thoughts resemble the clean ones looks perfectly usual."
)
_ANY = (
    " A small consistent offset, and whoever optimises against this score, stay unseen; short"
    " trajectories carry little evidence of anything that is spread over thoughts. A thought can"
    " also stand out because the one before it was changed: the one named is the likeliest place,"
    " not a proof."
)


def cannot_see(scorer: str) -> str:
    """What stays unseen by this scorer, in words."""
    return (_RETROFIT if scorer == RETROFIT_SCORER else _SELF) + _ANY
