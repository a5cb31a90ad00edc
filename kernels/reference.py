"""What a stack computes, in plain PyTorch: the specification that every provider is tested against.

What a layer computes is :attr:`surrogate.kernels.architectures.Architecture.step`, and what the
input stage does :mod:`surrogate.kernels.branches`.
Float32 or float64, differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.kernels.branches import effective_weights
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["ReferenceSteps", "run_stack_reference"]


def run_stack_reference(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`."""
    weights = effective_weights(spec.branches, weights)
    dense = events.to_dense(spec.input_size, state.dtype)
    if spec.branches is not None:
        dense = dense @ spec.branches.dense(weights["branches.weight"]).t()
    architecture = spec.architecture
    traces = state[:, spec.trace_slice]
    states = [tuple(state[:, at] for at in parts.values()) for parts in spec.state_slices]
    outputs = []
    for t in range(events.steps):
        x = dense[:, t]
        if spec.branches is not None:
            traces = weights["branches.log_tau"] * traces + x
            x = spec.branches.saturate(traces)
        for layer, before in enumerate(states):
            w_ih, w_hh, b_ih, b_hh, *further = (
                weights[f"layers.{layer}.{name}"] for name in architecture.parameter_shapes(1, 1)
            )
            from_hidden = before[0] @ w_hh.t() + b_hh
            states[layer] = architecture.step(x @ w_ih.t() + b_ih, from_hidden, before, *further)
            x = states[layer][0]
        if spec.head == "linear":
            x = x @ weights["head.weight"].t() + weights["head.bias"]
        outputs.append(x)
    final = (traces, *(part for parts in states for part in parts))
    return torch.stack(outputs, 1), torch.cat(final, 1)


class ReferenceSteps:
    """Steps by the specification, one neuron at a time where each has its own weights."""

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
    ) -> None:
        self.spec, self.weights, self.state, self.outputs = spec, weights, state, outputs
        self.per_neuron = weights["layers.0.weight_ih_l0"].dim() == 3

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
