"""The models that come with the package, by name: ``surrogate.load("l5pc-small")``."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["BUNDLED", "bundled_models", "locate"]

#: Where they lie.
BUNDLED = Path(__file__).with_name("bundled")


def bundled_models() -> dict[str, Path]:
    """The bundled model files by name, smallest first."""
    files = sorted(BUNDLED.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    return {path.stem: path for path in files}


def locate(model: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The model file that ``model`` means: what lies at this path, else the bundled one so named.

    A path that is neither is returned as it is.
    """
    return model if os.path.lexists(model) else bundled_models().get(os.fspath(model), model)
