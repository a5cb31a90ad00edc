"""What the training kernels of a stack compile to, for checks that need no GPU."""

from __future__ import annotations

from typing import Any

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.backward import blocked_backward, resident_backward
from surrogate.kernels.triton.forward import blocked_forward, resident_forward
from surrogate.kernels.triton.launch import backward_constants, kernel_constants
from surrogate.kernels.triton.layout import StackLayout, choose_tiling
from surrogate.kernels.triton.projection import gather_sum, launch_options, segment_sum

__all__ = ["kernels_to_compile"]

_INTEGERS = ("table", "arrived", "failed", "row", "row_ptr", "channel_ptr")
_NUMBERS = ("batch", "steps", "blocks", "rows", "input_size")


def kernels_to_compile(
    spec: StackSpec, batch: int, models: int = 1, processors: int = 132
) -> list[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """The kernels that one training step of ``spec`` launches, in float32.

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
    events = launch_options(layout.gates * layout.widths[0], per_model=False)
    warps = events.pop("num_warps")
    read = {
        "WIDTH": layout.slots * layout.width,
        "FIRST_COLUMN": layout.slot_columns(0, "ih").start,
    }
    return [
        _case("project", gather_sum, events, warps),
        _case("forward", kernels[0], shared | {"KEEP": True}, tiling.warps),
        _case("backward", kernels[1], shared | backward_constants(layout), tiling.warps),
        _case("project backward", segment_sum, events | read, warps),
    ]


def _case(
    name: str, kernel: Any, constants: dict[str, Any], warps: int
) -> tuple[str, Any, dict[str, str], dict[str, Any], int]:
    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        if argument in _NUMBERS:
            return "i32"
        if argument == "channel":
            return "*i16"
        return "*i32" if argument in _INTEGERS else "*fp32"

    return name, kernel, {name: kind(name) for name in kernel.arg_names}, constants, warps
