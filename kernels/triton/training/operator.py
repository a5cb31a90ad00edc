"""The training kernels behind torch's autograd.

The recurrence is one ``torch.library`` operator with a fake and a gradient, so that
``torch.compile`` and fake tensors pass through it. A linear head is a matrix product over the
layer below and is left to torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton import launching_on
from surrogate.kernels.triton.training.launch import (
    launch_backward,
    launch_forward,
    weight_gradients,
)
from surrogate.kernels.triton.training.layout import StackLayout, Tiling, choose_tiling
from surrogate.kernels.triton.training.projection import project_events, sum_by_channel

__all__ = ["run_models"]


def _tiling(layout: StackLayout, state: Tensor) -> Tiling:
    """Programs share a stack only on a GPU, which runs them at the same time."""
    models, batch, _ = state.shape
    processors = 1
    if state.is_cuda:
        processors = torch.cuda.get_device_properties(state.device).multi_processor_count
    return choose_tiling(layout, batch, models, processors)


@torch.library.custom_op("surrogate::recurrent_stack", mutates_args=())
def _recurrent_stack(
    weights: list[Tensor],
    state: Tensor,
    channel: Tensor,
    row_ptr: Tensor,
    arch: str,
    sizes: list[int],
    steps: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``-> top [M, B, T, H], state [M, B, S]``, and ``hidden, memory, slots`` for backward."""
    layout = StackLayout(arch, tuple(sizes))
    first = layout.pad_rows(weights[0], 0).flatten(1, 2)
    with launching_on(state.device):
        projected = project_events(first, channel, row_ptr, state.shape[1], steps)
        hidden, memory, slots = launch_forward(
            layout, _tiling(layout, state), projected, weights, state, keep
        )
    layers = range(len(sizes))
    final_h = [hidden[:, steps + layer, :, layout.columns(layer)] for layer in layers]
    final_c = None
    if layout.memory:
        final_c = [memory[:, steps + layer, :, layout.columns(layer)] for layer in layers]
    top = hidden[:, len(sizes) :, :, layout.columns(len(sizes) - 1)].transpose(1, 2)
    # An operator's result must not share memory with another.
    top = top.clone(memory_format=torch.contiguous_format)
    return top, layout.collect_state(final_h, final_c), hidden, memory, slots


@_recurrent_stack.register_fake
def _(
    weights: list[Tensor],
    state: Tensor,
    channel: Tensor,
    row_ptr: Tensor,
    arch: str,
    sizes: list[int],
    steps: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    layout = StackLayout(arch, tuple(sizes))
    models, batch, _ = state.shape
    iterations = steps + len(sizes) - 1
    hidden = state.new_empty(models, iterations + 1, batch, layout.width)
    slots = (models, iterations, batch, layout.slots * layout.width)
    return (
        state.new_empty(models, batch, steps, sizes[-1]),
        torch.empty_like(state, memory_format=torch.contiguous_format),
        hidden,
        torch.empty_like(hidden) if layout.memory else state.new_empty(0),
        state.new_empty(slots if keep else 0),
    )


@torch.library.custom_op("surrogate::recurrent_stack_backward", mutates_args=())
def _recurrent_stack_backward(
    grad_top: Tensor,
    grad_state: Tensor,
    weights: list[Tensor],
    channel: Tensor,
    row_ptr: Tensor,
    hidden: Tensor,
    memory: Tensor,
    slots: Tensor,
    arch: str,
    sizes: list[int],
) -> list[Tensor]:
    """Gradients of the weights and, last, of the initial state."""
    layout = StackLayout(arch, tuple(sizes))
    batch, steps = grad_top.shape[1:3]
    with launching_on(hidden.device):
        grad_slots, grad_state = launch_backward(
            layout,
            _tiling(layout, grad_state),
            grad_top,
            grad_state,
            weights,
            hidden,
            memory,
            slots,
        )
        others = weight_gradients(layout, steps, hidden, grad_slots)
        first = sum_by_channel(
            grad_slots,
            layout.slot_columns(0, "ih"),
            channel,
            row_ptr,
            batch,
            steps,
            weights[0].shape[2],
        )
    return [layout.rows_of_slots(first, 0, "ih"), *others, grad_state]


@_recurrent_stack_backward.register_fake
def _(
    grad_top: Tensor,
    grad_state: Tensor,
    weights: list[Tensor],
    channel: Tensor,
    row_ptr: Tensor,
    hidden: Tensor,
    memory: Tensor,
    slots: Tensor,
    arch: str,
    sizes: list[int],
) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in (*weights, grad_state)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weights, _, channel, row_ptr, ctx.arch, ctx.sizes, *_ = inputs
    top, state, *saved = output
    ctx.shapes = top.shape, state.shape
    ctx.save_for_backward(*weights, channel, row_ptr, *saved)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *weights, channel, row_ptr, hidden, memory, slots = ctx.saved_tensors
    grad_top, grad_state = (
        hidden.new_zeros(shape) if grad is None else grad
        for grad, shape in zip(grads, ctx.shapes, strict=False)
    )
    *grad_weights, grad_initial = _recurrent_stack_backward(
        grad_top, grad_state, weights, channel, row_ptr, hidden, memory, slots, ctx.arch, ctx.sizes
    )
    return grad_weights, grad_initial, *[None] * 6


_recurrent_stack.register_autograd(_backward, setup_context=_setup_context)


def run_models(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run M models in one launch; see :func:`surrogate.kernels.run_models`."""
    names = [name for name in spec.parameter_shapes() if name.startswith("layers.")]
    tensors = [weights[name].contiguous() for name in names]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, state))
    x, state, *_ = _recurrent_stack(
        tensors,
        state.contiguous(),
        events.channel,
        events.row_ptr,
        spec.arch,
        list(spec.recurrent_sizes),
        events.steps,
        keep,
    )
    if spec.head == "linear":
        head = weights["head.weight"].transpose(1, 2)
        x = (x.flatten(1, 2) @ head + weights["head.bias"][:, None]).unflatten(1, x.shape[1:3])
    return x, state
