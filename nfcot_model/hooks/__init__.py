"""Hooks: read and change anything inside a model while it thinks (needs transformer-lens)."""

try:
    import transformer_lens as _needed  # noqa: F401
except ImportError as error:
    raise ImportError("hooks need transformer-lens: install the extra 'hooks'") from error

from nfcot_model.hooks.bridge import ThoughtBridge, hooked
from nfcot_model.hooks.capture import capture
from nfcot_model.hooks.sites import Site, choose_sites, sites

__all__ = ["Site", "ThoughtBridge", "capture", "choose_sites", "hooked", "sites"]
