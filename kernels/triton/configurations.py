"""The stacks that speed and compilation are judged on."""

from __future__ import annotations

from surrogate.kernels.architectures import ARCHITECTURES
from surrogate.kernels.spec import StackSpec

__all__ = ["HIDDEN_SIZES", "configurations", "name_of"]

#: The six sizes of the blog's grid of 216 runs; five are published, 128-32-2 stands in for one.
HIDDEN_SIZES = (
    (32, 16, 2),
    (128, 32, 2),
    (256, 64, 2),
    (128, 64, 64, 64, 32, 2),
    (256, 128, 64, 32, 16, 2),
    (512, 256, 128, 64, 32, 2),
)


def configurations() -> list[StackSpec]:
    """All 18: three architectures in six sizes, on 1278 synapses."""
    archs = [name for name, each in ARCHITECTURES.items() if each.triton]
    return [StackSpec(arch, sizes) for arch in archs for sizes in HIDDEN_SIZES]


def name_of(spec: StackSpec) -> str:
    """``"lstm 256-64-2"``."""
    return f"{spec.arch} {spec.sizes_text}"
