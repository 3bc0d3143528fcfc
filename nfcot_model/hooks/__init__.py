"""Hooks: read and change anything inside a model while it thinks (needs transformer-lens)."""

from nfcot_model.hooks.bridge import ThoughtBridge, hooked
from nfcot_model.hooks.capture import capture
from nfcot_model.hooks.sites import Site, sites

__all__ = ["Site", "ThoughtBridge", "capture", "hooked", "sites"]
