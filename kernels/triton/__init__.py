"""The stacks on an NVIDIA GPU, in Triton. This package is importable without it."""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import PackageNotFoundError, version

import torch
from packaging.version import Version

from surrogate.kernels.architectures import ARCHITECTURES, HIDDEN_SIZES, L5PC_INPUTS
from surrogate.kernels.spec import StackSpec

__all__ = ["configurations", "launching_on", "why_not"]

MINIMUM_TRITON = "3.6"
MINIMUM_CAPABILITY = (8, 0)


def _triton_problem() -> str | None:
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed"
    if Version(found) < Version(MINIMUM_TRITON):
        return f"Triton {found} is too old, {MINIMUM_TRITON} is needed"
    return None


# Computed once: every run calls it, and torch.compile traces through it.
_TRITON_PROBLEM = _triton_problem()
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def why_not(device: torch.device | str, dtype: torch.dtype = torch.float32) -> str | None:
    """Why the kernels cannot run weights of this device and dtype; None if they can.

    They run on a GPU in float32; in Triton's interpreter (``TRITON_INTERPRET=1``) on the CPU, very
    slowly, also in float64.
    """
    if _TRITON_PROBLEM is not None:
        return _TRITON_PROBLEM
    device = torch.device(device)
    if _INTERPRETED:
        if device.type == "cpu" and dtype in (torch.float32, torch.float64):
            return None
        return f"Triton's interpreter takes float32 or float64 on the CPU, not {dtype} on {device}"
    if torch.version.hip is not None:
        return "PyTorch is built for ROCm"
    if not torch.cuda.is_available():
        return "no CUDA GPU is present"
    if (
        device.type == "cuda"
        and dtype == torch.float32
        and torch.cuda.get_device_capability(device) >= MINIMUM_CAPABILITY
    ):
        return None
    return f"it takes float32 on a GPU of compute capability 8.0 or more, not {dtype} on {device}"


def launching_on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """While inside, kernels are launched on ``device``.

    Triton launches on torch's current GPU, whatever the tensors' device; its interpreter uses none.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def configurations() -> list[StackSpec]:
    """The stacks for measuring speed and compilation: each cell in the blog's sizes."""
    archs = [name for name, each in ARCHITECTURES.items() if each.triton]
    return [StackSpec(arch, sizes, L5PC_INPUTS) for arch in archs for sizes in HIDDEN_SIZES]
