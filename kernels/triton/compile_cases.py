"""What the training kernels of a stack compile to, for checks that need no GPU."""

from __future__ import annotations

from typing import Any

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.backward import blocked_backward, resident_backward
from surrogate.kernels.triton.forward import blocked_forward, resident_forward
from surrogate.kernels.triton.launch import backward_constants, kernel_constants
from surrogate.kernels.triton.layout import StackLayout, choose_tiling

__all__ = ["kernels_to_compile"]

_TYPES = {"table": "*i32", "arrived": "*i32", "failed": "*i32"}
_NUMBERS = ("batch", "steps", "blocks")


def kernels_to_compile(
    spec: StackSpec, batch: int, models: int = 1, processors: int = 132
) -> list[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """The recurrence kernels that one training step of ``spec`` launches, in float32.

    Returns
    -------
    list of (name, kernel, signature, constants, num_warps)
        ``signature`` and ``constants`` by argument name, as ``triton.compiler.ASTSource`` takes
        them.
    """
    layout = StackLayout(spec.arch, spec.recurrent_sizes)
    tiling = choose_tiling(layout, batch, models, processors)
    kernels = (
        (resident_forward, resident_backward)
        if tiling.resident
        else (blocked_forward, blocked_backward)
    )
    shared = kernel_constants(layout, tiling)
    cases = []
    for name, kernel, own in (
        ("forward", kernels[0], {"KEEP": True}),
        ("backward", kernels[1], backward_constants(layout)),
    ):
        constants = shared | own
        signature = {
            argument: "constexpr"
            if argument in constants
            else "i32"
            if argument in _NUMBERS
            else _TYPES.get(argument, "*fp32")
            for argument in kernel.arg_names
        }
        cases.append((name, kernel, signature, constants, tiling.warps))
    return cases
