"""Stepwise inference by the C++ kernels, on one thread or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surrogate.kernels.branches import effective_weights
from surrogate.kernels.cpu.sequences import make_stack, shares
from surrogate.kernels.spec import StackSpec

__all__ = ["KernelSteps", "ThreadedSteps"]


class KernelSteps:
    """The C++ kernels' functions, called directly."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
    ) -> None:
        ready = effective_weights(spec.branches, weights)
        tensors = [tensor.contiguous() for tensor in ready.values()]
        shared = ready["layers.0.weight_ih_l0"].dim() == 2
        by_model = [tensors] if shared else list(zip(*tensors, strict=True))
        stack = make_stack(spec, tensors[0].dtype, len(by_model))
        for model, own in enumerate(by_model):
            stack.set_weights(tuple(tensor.data_ptr() for tensor in own), model)
        stack.bind(len(state), state, outputs)
        self.step, self.step_counts = stack.step, stack.step_counts


class ThreadedSteps:
    """Gives each thread a range of neurons, and its own copy of the weights."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
        threads: int,
    ) -> None:
        self._shares = [slice(*bounds) for bounds in shares(len(state), threads)]
        per_neuron = weights["layers.0.weight_ih_l0"].dim() == 3
        self._kernels = [
            KernelSteps(
                spec,
                {k: w[share] for k, w in weights.items()} if per_neuron else weights,
                state[share],
                outputs[share],
            )
            for share in self._shares
        ]
        self._input_size = spec.input_size
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def step(self, channel: NDArray[np.int16], row_ptr: NDArray[np.int32]) -> None:
        # All or none: a thread must not advance its neurons where another's events are wrong.
        neurons = self._shares[-1].stop
        if row_ptr.shape != (neurons + 1,):
            raise ValueError(f"row_ptr has shape {row_ptr.shape}, expected ({neurons + 1},)")
        if row_ptr[0] < 0 or row_ptr[-1] > len(channel) or (np.diff(row_ptr) < 0).any():
            raise ValueError(f"row_ptr must rise from 0 to at most {len(channel)}, all events")
        if channel.size and not 0 <= channel.min() <= channel.max() < self._input_size:
            raise ValueError(f"a channel is outside 0..{self._input_size - 1}")
        self._run(lambda kernel, share: kernel.step(channel, row_ptr[share.start : share.stop + 1]))

    def step_counts(self, counts: NDArray[np.int32], lost: NDArray[np.int64]) -> None:
        neurons = self._shares[-1].stop
        if len(counts) != neurons or len(lost) != neurons:
            raise ValueError(
                f"counts of {len(counts)} and lost of {len(lost)} neurons, expected {neurons}"
            )
        self._run(lambda kernel, share: kernel.step_counts(counts[share], lost[share]))

    def _run(self, work: Callable[[KernelSteps, slice], None]) -> None:
        if self._pool is None or self._pool[0] != os.getpid():  # a forked process has no threads
            self._pool = os.getpid(), ThreadPoolExecutor(len(self._shares))
        for _ in self._pool[1].map(work, self._kernels, self._shares):
            pass  # the result of each is None, or the exception it raised
