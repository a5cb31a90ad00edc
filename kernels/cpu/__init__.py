"""The C++ kernels: one source, built for several instruction sets; the fastest is used."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

__all__ = ["LEVELS", "include_dir", "level", "load", "why_not"]

#: Instruction-set levels, fastest first. A machine has those of one family.
LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64", "arm64", "generic")
# The levels that every CPU of their family runs; their modules say which levels the CPU has.
_BASELINES = ("x86-64", "arm64", "generic")


class _Choice(NamedTuple):
    module: ModuleType | None
    level: str | None
    reason: str | None


def load() -> ModuleType | None:
    """The extension module of the fastest level that was built and that this CPU runs.

    Chosen on the first call. ``SURROGATE_CPU_LEVEL`` in the environment forces a level.

    Returns
    -------
    module or None
        None if no level was built or none can be imported; :func:`why_not` says which.

    Raises
    ------
    ValueError
        If the forced level is unknown, was not built or is not supported by the CPU; the message
        names those that can be chosen.
    """
    return _choice().module


def level() -> str | None:
    """The level of the module that :func:`load` gives, such as ``"x86-64-v4"``."""
    return _choice().level


def why_not() -> str | None:
    """Why :func:`load` gives None, or None if it gives a module."""
    return _choice().reason


def include_dir() -> Path:
    """The folder of the C++ headers, for the include path of a compiler."""
    return Path(__file__).resolve().parent


@functools.cache
def _choice() -> _Choice:
    built = [name for name in LEVELS if importlib.util.find_spec(_module_name(name))]
    forced = os.environ.get("SURROGATE_CPU_LEVEL") or None
    try:
        usable = _runnable(built)
        if forced not in (None, *usable):
            raise ValueError(_refusal(forced, built, usable))
        if not usable:
            return _Choice(None, None, "not built")
        chosen = forced or usable[0]
        return _Choice(importlib.import_module(_module_name(chosen)), chosen, None)
    except ImportError as error:  # built for another machine or against other libraries
        return _Choice(None, None, f"not importable ({' '.join(str(error).split())})")


def _module_name(level: str) -> str:
    return f"{__name__}._{level.replace('-', '_')}"


def _runnable(built: list[str]) -> list[str]:
    """Those of the ``built`` levels that this CPU runs, fastest first.

    Only the baseline is imported for this: another might execute an unknown instruction.
    """
    baseline = next((name for name in built if name in _BASELINES), None)
    if baseline is None:
        return []
    best = importlib.import_module(_module_name(baseline)).isa()
    return [name for name in built if LEVELS.index(name) >= LEVELS.index(best)]


def _refusal(forced: str | None, built: list[str], usable: list[str]) -> str:
    if forced not in LEVELS:
        problem = "no such level"
    elif forced not in built:
        problem = "was not built"
    else:
        problem = "this CPU does not run it"
    choices = ", ".join(usable) or "none, for no level was built"
    return f"SURROGATE_CPU_LEVEL={forced}: {problem}; unset it or choose from: {choices}"
