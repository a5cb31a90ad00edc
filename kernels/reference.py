"""What a stack computes, in plain PyTorch: the specification that every provider is tested against.

What a layer computes is :attr:`surrogate.kernels.architectures.Architecture.step`.
Float32 or float64, differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["run_stack_reference"]


def run_stack_reference(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`."""
    dense = events.to_dense(spec.input_size, state.dtype)
    step = spec.architecture.step
    states = [tuple(state[:, at] for at in parts.values()) for parts in spec.state_slices]
    outputs = []
    for t in range(events.steps):
        x = dense[:, t]
        for layer, before in enumerate(states):
            name = f"layers.{layer}."
            from_input = x @ weights[name + "weight_ih_l0"].t() + weights[name + "bias_ih_l0"]
            from_hidden = before[0] @ weights[name + "weight_hh_l0"].t()
            states[layer] = step(from_input, from_hidden + weights[name + "bias_hh_l0"], before)
            x = states[layer][0]
        if spec.head == "linear":
            x = x @ weights["head.weight"].t() + weights["head.bias"]
        outputs.append(x)
    return torch.stack(outputs, 1), torch.cat([part for parts in states for part in parts], 1)
