"""How figures look and are written: the same whatever the user has set for matplotlib."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from surrogate.errors import UsageError
from surrogate.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_style", "save_figure"]

_ACTIVE = ContextVar("_ACTIVE", default=False)


@contextlib.contextmanager
def figure_style(**settings: Any) -> Iterator[None]:
    """Draw with matplotlib's defaults and ``settings``; also a decorator.

    The user's matplotlibrc and backend make no difference. A style inside another one changes
    nothing.
    """
    if _ACTIVE.get():
        yield
        return
    # A notebook's backend, which matplotlib may not find here, would fail its import.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    token = _ACTIVE.set(True)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(cast(Any, settings))  # names are typed, one by one
            yield
    finally:
        _ACTIVE.reset(token)


@figure_style()
def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 120) -> None:
    """Write ``figure`` as PNG or SVG, by the end of its name.

    Raises
    ------
    UsageError
        If the name ends otherwise.
    DataError
        If the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"{path}: unknown picture format {suffix!r}; end it in .png or .svg")
    with atomic_path(path) as aside:
        figure.savefig(aside, format=suffix[1:], dpi=dpi)
