"""The one error that means: the user can mend this."""

__all__ = ["UserError"]


class UserError(Exception):
    """What should the user change?

    The message is one line that names the file, field or flag, what was expected and what to do.
    The command line prints it to stderr and exits with code 2; library callers may catch it.
    """
