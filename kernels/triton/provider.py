"""The Triton kernels as a provider. Triton is imported when they run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import DeviceSteps, Provider
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton import why_not

__all__ = ["TritonProvider"]


class TritonProvider(Provider):
    """Sequences and steps in Triton, many models in one launch."""

    name = "triton"
    steps_on_device = shares_launches = True

    def suits(self, device: torch.device) -> bool:
        return device.type != "cpu"  # where its interpreter runs, very slowly

    def unavailable(
        self, spec: StackSpec | None, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if spec is not None and spec.architecture.triton is None:
            return f"no Triton kernels for {spec.arch}"
        if spec is not None and spec.branches is not None:
            return "no Triton kernels for branches"
        reason = why_not(device, dtype)
        return reason and f"no Triton kernels for {dtype} on {device.type} here ({reason})"

    def run(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        single = {name: value[None] for name, value in weights.items()}
        outputs, final = self.run_models(spec, single, events, state[None])
        return outputs[0], final[0]

    def run_models(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        first = weights["layers.0.weight_ih_l0"]
        if reason := self.unavailable(spec, first.device, first.dtype):
            raise ValueError(
                f"the Triton kernels cannot run this stack: {reason}; use provider 'reference'"
            )
        from surrogate.kernels.triton.training.operator import run_models

        return run_models(spec, weights, events, state)

    def training_bytes(self, spec: StackSpec, batch: int, steps: int) -> int:
        from surrogate.kernels.triton.training.layout import StackLayout

        return StackLayout(spec.arch, spec.recurrent_sizes).training_bytes(batch, steps)

    def device_stepper(
        self, spec: StackSpec, weights: Mapping[str, Tensor], state: Tensor
    ) -> DeviceSteps:
        from surrogate.kernels.triton.step.stepper import TritonStepper

        return TritonStepper(spec, weights, len(state), dtype=state.dtype, state=state)
