"""The errors for users: one line that names the value, what was expected and the cure."""

from __future__ import annotations

__all__ = ["DataError", "Interrupted", "SurrogateError", "UsageError", "one_line", "printable"]


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


def one_line(message: str, most: int = 300) -> str:
    """``message`` as one line of :func:`printable` text, its middle left out where it is long."""
    if len(message) > 4 * most:
        message = f"{message[: 2 * most]} … {message[-2 * most :]}"
    line = printable(" ".join(message.split()))
    half = (most - 3) // 2
    return line if len(line) <= most else f"{line[:half]} … {line[-half:]}"


def printable(text: str) -> str:
    """``text`` with escapes for all that is neither printable nor the end of a line.

    What is shown quotes files, which may hold sequences that a terminal obeys.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )
