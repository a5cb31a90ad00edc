"""The kernels of a stack with all compile-time arguments, for checks without a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.step.kernels import step_kernel
from surrogate.kernels.triton.step.packing import PackedLayout
from surrogate.kernels.triton.step.plan import plan_step
from surrogate.kernels.triton.step.stepper import step_options
from surrogate.kernels.triton.training.backward import blocked_backward, resident_backward
from surrogate.kernels.triton.training.forward import blocked_forward, resident_forward
from surrogate.kernels.triton.training.launch import kernel_constants
from surrogate.kernels.triton.training.layout import StackLayout, choose_tiling
from surrogate.kernels.triton.training.projection import gather_sum, launch_options, segment_sum

__all__ = ["BATCH", "NEURONS", "Case", "cases_of"]

#: The batch and the numbers of neurons of the committed record.
BATCH, NEURONS = 32, (1, 1000, 1 << 20)

#: Arguments that are not pointers to float32.
_KINDS = (
    {"channel": "*i16"}
    | dict.fromkeys(("table", "row", "row_ptr", "channel_ptr"), "*i32")
    | dict.fromkeys(("arrived", "failed", "begin", "end"), "*i32")
    | dict.fromkeys(("batch", "steps", "blocks", "rows", "input_size", "neurons"), "i32")
)


class Case(NamedTuple):
    """A kernel with everything that its compilation depends on.

    ``signature`` and ``constants`` are by argument name, as ``triton.compiler.ASTSource`` takes
    them; ``options`` are those of the launch.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(cls, name: str, kernel: Any, **arguments: Any) -> Case:
        """The kernel with these compile-time arguments and options, in float32."""
        constants = {key: arguments.pop(key) for key in kernel.arg_names if key in arguments}
        signature = {
            key: "constexpr" if key in constants else _KINDS.get(key, "*fp32")
            for key in kernel.arg_names
        }
        return cls(name, kernel, signature, constants, arguments)


def cases_of(spec: StackSpec) -> list[Case]:
    """The kernels that training steps and bins of ``spec`` launch."""
    return _training_cases(spec) + [_step_case(spec, neurons) for neurons in NEURONS]


def _training_cases(spec: StackSpec, models: int = 1, processors: int = 132) -> list[Case]:
    layout = StackLayout(spec.arch, spec.recurrent_sizes)
    tiling = choose_tiling(layout, BATCH, models, processors)
    if tiling.resident:
        forward, backward = resident_forward, resident_backward
    else:
        forward, backward = blocked_forward, blocked_backward
    there, back = (kernel_constants(layout, tiling, backward=way) for way in (False, True))
    events = launch_options(layout.gates * layout.widths[0], per_model=False)
    read = {
        "WIDTH": layout.slots * layout.width,
        "FIRST_COLUMN": layout.slot_columns(0, "ih").start,
    }
    return [
        Case.of("project", gather_sum, **events),
        Case.of("forward", forward, **there, KEEP=True, num_warps=tiling.warps),
        Case.of("backward", backward, **back, num_warps=tiling.warps),
        Case.of("project backward", segment_sum, **events, **read),
    ]


def _step_case(spec: StackSpec, neurons: int) -> Case:
    plan = plan_step(spec, neurons)
    options = step_options(spec, plan, PackedLayout.of(spec, plan), own_weights=False)
    return Case.of(f"step {neurons}", step_kernel, **options)
