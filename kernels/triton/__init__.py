"""The stacks on an NVIDIA GPU, in Triton. This package is importable without it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch
from packaging.version import Version
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["available", "run_models_triton", "run_stack_triton", "usable"]

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


# Found once: a run asks at every call, and torch.compile traces through it.
_TRITON_PROBLEM = _triton_problem()
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def available() -> str | None:
    """Why the kernels cannot run here, in a few words; None if they can.

    In Triton's interpreter (``TRITON_INTERPRET=1``) they run anywhere, very slowly.
    """
    if _TRITON_PROBLEM is not None or _INTERPRETED:
        return _TRITON_PROBLEM
    if torch.version.hip is not None:
        return "PyTorch is built for ROCm"
    if not torch.cuda.is_available():
        return "no CUDA GPU is present"
    return None


def usable(device: torch.device | str, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernels run stacks whose weights have this device and dtype.

    On a GPU in float32; in the interpreter on the CPU, also in float64.
    """
    if available() is not None:
        return False
    device = torch.device(device)
    if _INTERPRETED:
        return device.type == "cpu" and dtype in (torch.float32, torch.float64)
    return (
        device.type == "cuda"
        and dtype == torch.float32
        and torch.cuda.get_device_capability(device) >= MINIMUM_CAPABILITY
    )


def _check(spec: StackSpec, weights: Mapping[str, Tensor]) -> None:
    if not spec.architecture.triton:
        raise ValueError(f"the Triton kernels have no {spec.arch} layer; use provider 'reference'")
    first = weights["layers.0.weight_ih_l0"]
    if not usable(first.device, first.dtype):
        reason = available() or (
            "they take float32 on a GPU of compute capability 8.0 or more, "
            f"not {first.dtype} on {first.device}"
        )
        raise ValueError(f"the Triton kernels cannot run this stack: {reason}")


def run_stack_triton(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`.

    Raises
    ------
    ValueError
        If the kernels cannot run on the weights' device or in their dtype.
    """
    _check(spec, weights)
    from surrogate.kernels.triton.provider import run_stack_triton as run

    return run(spec, weights, events, state)


def run_models_triton(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run M models in one launch; see :func:`surrogate.kernels.run_models`.

    Raises
    ------
    ValueError
        If the kernels cannot run on the weights' device or in their dtype.
    """
    _check(spec, weights)
    from surrogate.kernels.triton.provider import run_models_triton as run

    return run(spec, weights, events, state)
