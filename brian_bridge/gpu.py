"""Surrogates whose model steps on a GPU, with the interface of the CPU's stepper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import UsageError
from surrogate.kernels import PROVIDERS, Provider, StackSpec

__all__ = ["GpuStepper", "gpu_provider"]


def gpu_provider(device: str, precision: np.dtype, spec: StackSpec) -> Provider:
    """The provider that steps such a model on ``device``.

    Raises
    ------
    UsageError
        If there is none, with the reason and the cure.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}: expected 'cpu' or 'cuda'") from error
    dtype = torch.from_numpy(np.empty(0, precision)).dtype
    reasons = []
    for provider in PROVIDERS.values():
        if provider.steps_on_device:
            reason = provider.unavailable(spec, found, dtype)
            if reason is None:
                return provider
            reasons.append(reason)
    raise UsageError(
        f'device={device!r} cannot be used: {"; ".join(reasons)}; or leave device="cpu"'
    )


class GpuStepper:
    """N neurons whose steps are computed, and whose hidden state is kept, on a GPU.

    Each step copies the counts to the GPU and the outputs back. ``pull`` and ``push`` copy the
    hidden state, for storing and setting it.

    Parameters
    ----------
    spec, weights, neurons
        As for :class:`surrogate.kernels.stepper.Stepper`.
    device : str
    state, outputs : NDArray, float32 [N, spec.state_size] and [N, 2]
        On the host.
    """

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        neurons: int,
        *,
        device: str,
        state: NDArray[Any],
        outputs: NDArray[Any],
    ) -> None:
        there = {name: weight.to(device) for name, weight in weights.items()}
        self.outputs = outputs
        self._state = torch.from_numpy(state)
        provider = gpu_provider(device, state.dtype, spec)
        work = provider.device_stepper(spec, there, self._state.to(device, copy=True))
        assert work is not None, f"{provider.name} says that it steps on a device"
        self._work = work
        self._counts = torch.zeros(
            neurons, spec.input_size, dtype=torch.int32, device=self._work.state.device
        )
        self._lost = torch.zeros(neurons, dtype=torch.int64, device=self._work.state.device)

    def step_counts(self, counts: NDArray[np.int32], lost: NDArray[np.int64]) -> None:
        """As :meth:`surrogate.kernels.stepper.Stepper.step_counts`."""
        self._counts.copy_(torch.from_numpy(counts))
        self._lost.copy_(torch.from_numpy(lost))
        self._work.step_counts(self._counts, self._lost)
        counts[:] = 0
        torch.from_numpy(self.outputs).copy_(self._work.outputs)
        torch.from_numpy(lost).copy_(self._lost)

    def pull(self) -> None:
        """Copy the hidden state to the host."""
        self._state.copy_(self._work.state)

    def push(self) -> None:
        """Copy the hidden state of the host to the device."""
        self._work.state.copy_(self._state)

    def check(self) -> None:
        """Raise RuntimeError if a step failed on the device."""
        self._work.check()
