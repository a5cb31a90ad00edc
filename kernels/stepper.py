"""Stepwise inference: many neurons, one bin per call, in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from surrogate.kernels import cpu
from surrogate.kernels.cpu.provider import make_stack, shares
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.spec import StackSpec

__all__ = ["Stepper"]


class Stepper:
    """N neurons of one stack, advanced in place by one bin per call.

    Parameters
    ----------
    spec : StackSpec
    weights : mapping of str to Tensor
        By the canonical names and shapes of :meth:`StackSpec.parameter_shapes`; copied, so later
        changes to them do nothing. With a leading axis of length ``neurons`` on every one of them,
        each neuron has its own weights.
    neurons : int
        Number of neurons N.
    dtype : float32 (default) or float64
        Of arithmetic, state and outputs.
    state, outputs : NDArray, optional
        C-contiguous arrays [N, spec.state_size] and [N, 2] to work in, for callers that own the
        memory; new ones, zeroed, if not given.
    provider : "cpu" | "reference", optional
        The C++ kernels, or the specification; by default the first where they were built.
    threads : int
        CPU threads that share the neurons. One is best up to some hundred neurons.

    Attributes
    ----------
    state : NDArray [N, spec.state_size]
        Layers in order, h then c. To set it, write into it: ``stepper.state[:] = ...``.
    outputs : NDArray [N, 2]
        After a step: spike logit, and the voltage before scale and offset.
    step : callable (channel, row_ptr) -> None
        Advance by one bin in which the channels ``channel[row_ptr[n]:row_ptr[n + 1]]``, ascending
        and unique, are active at neuron n. int16 [E] and int32 [N + 1], C-contiguous.
    step_counts : callable (counts, lost) -> None
        Advance by one bin in which ``counts[n, channel]`` spikes arrived, int32
        [N, spec.input_size], and set the counts to zero. A channel with one spike or more is
        active; ``lost[n]``, int64 [N], grows by the spikes beyond the first of each channel, which
        the stack, trained on zeros and ones, cannot see.

    Raises
    ------
    ValueError
        If a shape, a dtype, the provider or the events of a step do not fit.

    Notes
    -----
    One thread at a time may step. A stepper cannot be copied or pickled: make another one, and
    copy the state.
    """

    step: Callable[[NDArray[np.int16], NDArray[np.int32]], None]
    step_counts: Callable[[NDArray[np.int32], NDArray[np.int64]], None]

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        neurons: int,
        *,
        dtype: DTypeLike = np.float32,
        state: NDArray[Any] | None = None,
        outputs: NDArray[Any] | None = None,
        provider: str | None = None,
        threads: int = 1,
    ) -> None:
        if neurons < 1 or threads < 1:
            raise ValueError(f"neurons={neurons}, threads={threads}: expected at least 1 of each")
        self.spec = spec
        self.neurons = neurons
        self.provider = provider or _fastest(spec)
        self._state = _array(state, (neurons, spec.state_size), np.dtype(dtype), "state")
        self._outputs = _array(outputs, (neurons, 2), np.dtype(dtype), "outputs")
        own = _in_order(spec, weights, neurons, torch.from_numpy(self.state).dtype)
        work: _Reference | _Kernel | _KernelThreads
        if self.provider == "reference":
            work = _Reference(spec, own, self.state, self.outputs)
        elif self.provider != "cpu":
            raise ValueError(f"unknown provider {provider!r}: expected cpu or reference")
        elif threads == 1:
            work = _Kernel(spec, own, self.state, self.outputs)
        else:
            work = _KernelThreads(spec, own, self.state, self.outputs, threads)
        self.step, self.step_counts = work.step, work.step_counts

    @property
    def state(self) -> NDArray[Any]:
        return self._state

    @property
    def outputs(self) -> NDArray[Any]:
        return self._outputs

    def __reduce__(self) -> NoReturn:
        # A copy's step would be the original's and advance its neurons.
        raise TypeError("a Stepper cannot be copied: make another one, and copy the state")


def _fastest(spec: StackSpec) -> str:
    in_cpp = spec.architecture.cpp_code is not None and cpu.load() is not None
    return "cpu" if in_cpp else "reference"


def _array(
    given: NDArray[Any] | None, shape: tuple[int, int], dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    if given is None:
        return np.zeros(shape, dtype)
    if given.shape != shape or given.dtype != dtype or not given.flags.c_contiguous:
        raise ValueError(
            f"{name} is {given.dtype} of shape {given.shape}, expected a C-contiguous {dtype} "
            f"array of shape {shape}"
        )
    return given


def _in_order(
    spec: StackSpec, weights: Mapping[str, Tensor], neurons: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Checked copies of the weights, in canonical order."""
    own = {}
    shapes = spec.parameter_shapes()
    shared = weights[next(iter(shapes))].dim() == 2
    for name, shape in shapes.items():
        expected = shape if shared else (neurons, *shape)
        if tuple(weights[name].shape) != expected:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, expected {expected}")
        own[name] = weights[name].detach().to("cpu", dtype, copy=True).contiguous()
    return own


class _Reference:
    """The specification, neuron by neuron where each has its own weights."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
    ) -> None:
        self.spec, self.weights, self.state, self.outputs = spec, weights, state, outputs
        self.per_neuron = next(iter(weights.values())).dim() == 3

    def step(self, channel: NDArray[np.int16], row_ptr: NDArray[np.int32]) -> None:
        neurons = len(self.state)
        groups = [(n, n + 1) for n in range(neurons)] if self.per_neuron else [(0, neurons)]
        for first, last in groups:
            own = (
                {k: w[first] for k, w in self.weights.items()} if self.per_neuron else self.weights
            )
            pointers = row_ptr[first : last + 1]
            events = SpikeEvents(
                torch.from_numpy(channel[pointers[0] : pointers[-1]]),
                torch.from_numpy(pointers - pointers[0]),
                last - first,
                1,
            )
            with torch.no_grad():
                outputs, state = run_stack_reference(
                    self.spec, own, events, torch.from_numpy(self.state[first:last])
                )
            self.outputs[first:last], self.state[first:last] = outputs[:, 0].numpy(), state.numpy()

    def step_counts(self, counts: NDArray[np.int32], lost: NDArray[np.int64]) -> None:
        active = counts > 0
        lost += np.maximum(counts - 1, 0).sum(1)
        counts[:] = 0
        row_ptr = np.zeros(len(counts) + 1, np.int32)
        row_ptr[1:] = active.sum(1).cumsum()
        self.step(active.nonzero()[1].astype(np.int16), row_ptr)


class _Kernel:
    """The C++ kernels' own functions, called without anything in between."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
    ) -> None:
        tensors = list(weights.values())
        by_model = [tensors] if tensors[0].dim() == 2 else list(zip(*tensors, strict=True))
        stack = make_stack(spec, tensors[0].dtype, len(by_model))
        for model, own in enumerate(by_model):
            stack.set_weights(tuple(tensor.data_ptr() for tensor in own), model)
        stack.bind(len(state), state, outputs)
        self.step, self.step_counts = stack.step, stack.step_counts


class _KernelThreads:
    """Neighbouring neurons to each thread, with its own copy of the weights."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
        threads: int,
    ) -> None:
        self._shares = [slice(*bounds) for bounds in shares(len(state), threads)]
        per_neuron = next(iter(weights.values())).dim() == 3
        self._kernels = [
            _Kernel(
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

    def _run(self, work: Callable[[_Kernel, slice], None]) -> None:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = os.getpid(), ThreadPoolExecutor(len(self._shares))
        for _ in self._pool[1].map(work, self._kernels, self._shares):
            pass  # the result of each is None, or the exception it raised
