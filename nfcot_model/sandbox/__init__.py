"""Runs generated Python away from this process and says whether it is right."""

from nfcot_model.sandbox.limits import Limits, Verdict
from nfcot_model.sandbox.pool import Sandbox

__all__ = ["Limits", "Sandbox", "Verdict"]
