"""The provider that runs wherever torch does: sparse event projection, layer after layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate.kernels.branches import effective_weights
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.torch_layers import BranchTraces, EventProjection

__all__ = ["run_stack_torch"]


def _time_major(events: SpikeEvents) -> tuple[Tensor, Tensor]:
    """Channels int32 [E] and pointers int32 [T * B + 1] with rows in the order t * B + b."""
    device = events.device
    counts = events.row_ptr.diff().view(events.batch, events.steps).t().flatten()
    row_ptr = torch.zeros(counts.numel() + 1, dtype=torch.int32, device=device)
    row_ptr[1:] = counts.cumsum(0)
    starts = events.row_ptr[:-1].view(events.batch, events.steps).t().flatten()
    # An event's old index is the old start of its row plus its rank in the row.
    shift = torch.repeat_interleave(starts - row_ptr[:-1], counts)
    places = torch.arange(events.channel.numel(), device=device) + shift
    return events.channel[places].int(), row_ptr


def run_stack_torch(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`."""
    layer_function = spec.architecture.torch_layer
    if layer_function is None:
        raise ValueError(f"the torch provider has no {spec.arch} layer; use provider 'reference'")
    weights = effective_weights(spec.branches, weights)
    channel, row_ptr = _time_major(events)
    x, parts = None, []
    if spec.branches is not None:
        # Fewer branches than gates: the events add rows of a matrix that is mostly zeros.
        matrix = spec.branches.dense(weights["branches.weight"])
        arrived = EventProjection.apply(matrix, channel, row_ptr)
        arrived = arrived.view(events.steps, events.batch, -1)
        start = state[:, spec.trace_slice]
        traces = BranchTraces.apply(arrived, weights["branches.log_tau"], start)
        x, parts = spec.branches.saturate(traces), [traces[-1]]
    for layer, at in enumerate(spec.state_slices):
        weight_ih, weight_hh, bias_ih, bias_hh, *further = (
            weights[f"layers.{layer}.{name}"] for name in spec.architecture.parameter_shapes(1, 1)
        )
        if x is None:
            rows = EventProjection.apply(weight_ih, channel, row_ptr)
            from_input = (rows + bias_ih).view(events.steps, events.batch, -1)
        else:
            from_input = F.linear(x, weight_ih, bias_ih)
        before = (state[:, part] for part in at.values())
        result = layer_function.apply(from_input, weight_hh, bias_hh, *further, *before)
        x, *others = result if isinstance(result, tuple) else (result,)
        parts += [x[-1], *others]
    assert x is not None
    if spec.head == "linear":
        x = F.linear(x, weights["head.weight"], weights["head.bias"])
    return x.transpose(0, 1), torch.cat(parts, 1)
