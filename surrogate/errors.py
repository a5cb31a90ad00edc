"""The errors for users: one line that names the value, what was expected and the cure."""

from __future__ import annotations

__all__ = ["DataError", "Interrupted", "SurrogateError", "UsageError"]


class SurrogateError(Exception):
    """A failure that is shown to the user as one line, not as a traceback.

    ``exit_code`` is what the command line exits with: 1 for a failure.
    """

    exit_code = 1


class UsageError(SurrogateError, ValueError):
    """A wrong argument. Exit code 2."""

    exit_code = 2


class DataError(SurrogateError):
    """A file is missing, damaged, of the wrong kind, or cannot be written."""


class Interrupted(SurrogateError):
    """A signal such as Ctrl-C stopped the work, after it saved where it stood."""
