"""The machine and its software: CPU, GPUs, compiler, versions, and the user's cache folder."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import archspec.cpu
import platformdirs

from surrogate.version import __version__

__all__ = ["cache_folder", "compiler", "cpu", "cpu_name", "gpus", "usable_cores", "versions"]

# Of some hundred CPU flags, those that decide how fast a recurrent stack runs.
_TELLING_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_bf16", "amx_tile"),
    *("neon", "asimd", "sve"),
)


def versions(*more: str) -> dict[str, str]:
    """Versions of what computes a result, by package; one that is not installed is left out.

    Parameters
    ----------
    *more : str
        Packages beside surrogate-neuron, torch, numpy and Python itself.
    """
    found = {"surrogate-neuron": __version__}
    for name in ("torch", "numpy", *more):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"python": platform.python_version()}


def cache_folder() -> Path:
    """Where files that can be made again belong, by the system's own rule.

    Users without a home directory, as some containers have, share the folder of temporary files.
    """
    elsewhere = Path(tempfile.gettempdir(), "surrogate")
    try:
        found = platformdirs.user_cache_path("surrogate")
    except RuntimeError:  # its older versions give a path that begins with ~
        return elsewhere
    return found if found.is_absolute() else elsewhere


def cpu_name() -> str:
    """The CPU's name, as far as the system tells."""
    return archspec.cpu.brand_string() or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu() -> dict[str, Any]:
    """Model, instruction sets and cores of the CPU."""
    host = archspec.cpu.host()
    level = host.generic.name.replace("_", "-")  # as the psABI writes it: x86-64-v3
    return {
        "model": cpu_name(),
        "architecture": platform.machine(),
        "level": level if level.startswith("x86-64") else None,
        "instruction_sets": [name for name in _TELLING_FLAGS if name in host.features],
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
    }


def compiler() -> dict[str, str] | None:
    """The C++ compiler that builds would use: ``$CXX``, else the first found."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl"):
        path = shutil.which(name) if name else None
        if path:
            return {"path": path, "version": _first_line([path, "--version"]) or "unknown"}
    return None


def gpus() -> list[dict[str, Any]]:
    """CUDA GPUs that torch can use."""
    import torch  # here: it takes seconds, and without it the rest still answers

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": one.name,
            "compute_capability": f"{one.major}.{one.minor}",
            "memory_gib": round(one.total_memory / 2**30, 1),
        }
        for one in properties
    ]


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()
