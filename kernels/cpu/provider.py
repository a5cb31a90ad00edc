"""The C++ kernels as a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.kernels import cpu
from surrogate.kernels.cpu.sequences import lacks, run_stack_cpu
from surrogate.kernels.cpu.steps import KernelSteps, ThreadedSteps
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import Provider, Steps
from surrogate.kernels.spec import StackSpec

__all__ = ["CpuProvider"]


class CpuProvider(Provider):
    """Sequences and steps in C++, in float32 or float64."""

    name = "cpu"
    steps = True

    @property
    def label(self) -> str:
        return f"cpu {cpu.level()}"

    def suits(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def unavailable(
        self, spec: StackSpec | None, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if spec is not None and (lacking := lacks(spec)):
            return f"no C++ kernels for {lacking}"
        if device.type != "cpu" or dtype not in (torch.float32, torch.float64):
            return f"no C++ kernels for {dtype} on {device.type}"
        return None if cpu.load() is not None else f"C++ kernels {cpu.why_not()}"

    def run(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return run_stack_cpu(spec, weights, events, state)

    def stepper(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
        threads: int,
    ) -> Steps:
        if threads == 1:
            return KernelSteps(spec, weights, state, outputs)
        return ThreadedSteps(spec, weights, state, outputs, threads)
