"""Stepwise inference: many neurons, one bin per call, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from surrogate.kernels.providers import PROVIDERS
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
        memory; by default new arrays of zeros.
    provider : "cpu" | "reference", optional
        The C++ kernels, or the specification; by default the kernels where they were built.
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
        the stack ignores, since it was trained on zeros and ones.

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
        self.provider = provider or _fastest(spec, np.dtype(dtype))
        self._state = _array(state, (neurons, spec.state_size), np.dtype(dtype), "state")
        self._outputs = _array(outputs, (neurons, 2), np.dtype(dtype), "outputs")
        own = _in_order(spec, weights, neurons, torch.from_numpy(self.state).dtype)
        chosen = PROVIDERS.get(self.provider)
        work = chosen.stepper(spec, own, self.state, self.outputs, threads) if chosen else None
        if work is None:
            raise ValueError(f"unknown provider {provider!r} of steps: expected cpu or reference")
        self.step, self.step_counts = work.step, work.step_counts

    @property
    def state(self) -> NDArray[Any]:
        return self._state

    @property
    def outputs(self) -> NDArray[Any]:
        return self._outputs

    def __reduce__(self) -> NoReturn:
        # The step of a copy would advance the neurons of the original.
        raise TypeError("a Stepper cannot be copied: make another one, and copy the state")


def _fastest(spec: StackSpec, dtype: np.dtype[Any]) -> str:
    """The fastest provider that steps on the CPU: C++ or, without it, the reference."""
    device, of_torch = torch.device("cpu"), torch.from_numpy(np.empty(0, dtype)).dtype
    return next(
        name
        for name, provider in PROVIDERS.items()
        if provider.steps and provider.unavailable(spec, device, of_torch) is None
    )


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
    shared = weights["layers.0.weight_ih_l0"].dim() == 2
    for name, shape in shapes.items():
        expected = shape if shared else (neurons, *shape)
        if tuple(weights[name].shape) != expected:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, expected {expected}")
        own[name] = weights[name].detach().to("cpu", dtype, copy=True).contiguous()
    return own
