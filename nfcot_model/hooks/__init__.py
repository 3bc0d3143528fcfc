"""Hooks: read and change anything inside a model while it thinks (needs transformer-lens)."""

from nfcot_model.hooks.missing import HooksMissingError

try:
    import transformer_lens as _needed  # noqa: F401
except ImportError as error:
    raise HooksMissingError(
        "hooks need transformer-lens: install the extra 'hooks' (pip install 'nfcot-scope[hooks]')"
    ) from error

from nfcot_model.hooks.bridge import ThoughtBridge, hooked
from nfcot_model.hooks.capture import capture
from nfcot_model.hooks.recording import (
    ActivationPlan,
    ActivationSummary,
    plan_activations,
    record,
)
from nfcot_model.hooks.sites import Site, choose_sites, sites

__all__ = [
    "ActivationPlan",
    "ActivationSummary",
    "HooksMissingError",
    "Site",
    "ThoughtBridge",
    "capture",
    "choose_sites",
    "hooked",
    "plan_activations",
    "record",
    "sites",
]
