"""What is said where transformer-lens is not installed."""

from nfcot_model.errors import UserError

__all__ = ["HooksMissingError"]


class HooksMissingError(UserError, ImportError):
    """Hooks were asked for, and transformer-lens is not installed."""
