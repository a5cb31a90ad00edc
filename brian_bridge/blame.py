"""Where in the user's code something happened, for errors and warnings."""

from __future__ import annotations

import linecache
import sys
from types import FrameType

from brian2.core.base import BrianObject

__all__ = ["made_by_user", "users_frame"]


def users_frame() -> tuple[int, FrameType]:
    """``stacklevel`` for warnings, and the innermost frame that is neither Brian2's nor ours."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("brian2", "surrogate"):
        depth, frame = depth + 1, frame.f_back
    return depth, frame


def made_by_user(made: BrianObject) -> None:
    """Let Brian2 say that an object, and those it contains, were created on the user's line."""
    _, frame = users_frame()
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    where = f"  File '{file}', line {line}, in {frame.f_code.co_name}\n    {text}"
    left = [made]
    while left:
        left += left[0].contained_objects
        left.pop(0)._creation_stack = where
