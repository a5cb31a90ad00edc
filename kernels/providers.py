"""The providers, and the choice of one where none is named."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.kernels.cpu.provider import CpuProvider
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import Provider, Steps
from surrogate.kernels.reference import ReferenceSteps, run_stack_reference
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.torch_stack import run_stack_torch
from surrogate.kernels.triton.provider import TritonProvider

__all__ = ["PROVIDERS", "default_provider"]


class _Torch(Provider):
    name = "torch"

    def unavailable(
        self, spec: StackSpec | None, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if spec is None or spec.architecture.torch_layer is not None:
            return None
        return f"no torch layer for {spec.arch}"

    def run(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return run_stack_torch(spec, weights, events, state)


class _Reference(Provider):
    name = "reference"
    steps = True

    def unavailable(
        self, spec: StackSpec | None, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        return None

    def run(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return run_stack_reference(spec, weights, events, state)

    def stepper(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
        threads: int,
    ) -> Steps:
        return ReferenceSteps(spec, weights, state, outputs)


#: By name, the fastest first. ``reference`` is the specification of the others.
PROVIDERS: dict[str, Provider] = {
    each.name: each for each in (CpuProvider(), TritonProvider(), _Torch(), _Reference())
}


def default_provider(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    spec: StackSpec | None = None,
) -> str:
    """The default provider: the fastest for weights of this device and dtype.

    Of those that compute ``spec``, where one is given; the reference computes all. Where a GPU
    gets no kernels of its own, a line on stderr says so, once.
    """
    device = torch.device(device)
    passed_over: list[str] = []
    for name, provider in PROVIDERS.items():
        if not provider.suits(device):
            continue
        reason = provider.unavailable(spec, device, dtype)
        if reason is None:
            if device.type != "cpu" and passed_over:
                _tell_once(f"surrogate: {passed_over[0]}; computing with {name}, which is slower")
            return name
        passed_over.append(reason)
    raise AssertionError("the reference computes everything")


@functools.cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)
