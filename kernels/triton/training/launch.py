"""Buffers and launches of the fused recurrence, and its weight gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from surrogate.kernels.triton.barrier import COUNTER_STRIDE, MAX_POLLS
from surrogate.kernels.triton.training.backward import blocked_backward, resident_backward
from surrogate.kernels.triton.training.forward import blocked_forward, resident_forward
from surrogate.kernels.triton.training.layout import StackLayout, Tiling

__all__ = [
    "kernel_constants",
    "launch_backward",
    "launch_forward",
    "weight_gradients",
]


def kernel_constants(layout: StackLayout, tiling: Tiling, backward: bool) -> dict[str, Any]:
    """The compile-time arguments of a kernel, except which arrays it keeps."""
    cell = layout.cell
    constants = {"CELL": cell.backward if backward else cell.forward, "STACK": layout.constants}
    return constants if tiling.resident else constants | {"TILING": tiling, "POLLS": MAX_POLLS}


@functools.lru_cache
def _table(layout: StackLayout, block: int, device: torch.device) -> Tensor:
    """Cached, because copying it to a GPU waits for all earlier work."""
    return torch.tensor(layout.table(block), dtype=torch.int32, device=device)


def _launch_blocked(
    kernel: Any,
    buffers: Sequence[Tensor],
    layout: StackLayout,
    tiling: Tiling,
    batch: int,
    steps: int,
    constants: dict[str, Any],
) -> Tensor:
    """Returns int32 [1]: 1 if a barrier between programs failed and results are wrong."""
    models, device = buffers[0].shape[0], buffers[0].device
    tiles = triton.cdiv(batch, tiling.batch)
    table = _table(layout, tiling.units, device)
    arrived = torch.zeros(models * tiles * COUNTER_STRIDE.value, dtype=torch.int32, device=device)
    failed = torch.zeros(1, dtype=torch.int32, device=device)
    options = {"launch_cooperative_grid": True} if tiling.parts > 1 else {}
    kernel[(tiling.parts, tiles, models)](
        *buffers,
        table,
        arrived,
        failed,
        len(table),
        batch,
        steps,
        **constants,
        **options,
        num_warps=tiling.warps,
    )
    return failed


def _spoil(results: Tensor, columns: slice, failed: Tensor) -> None:
    """NaN in ``columns``, the last layer's, where a barrier failed.

    So outputs and gradients show the failure without waiting for the GPU.
    """
    results[..., columns].masked_fill_(failed.bool(), float("nan"))


def launch_forward(
    layout: StackLayout,
    tiling: Tiling,
    projected: Tensor,
    weights: Sequence[Tensor],
    state: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence.

    Parameters
    ----------
    projected : Tensor [models, steps, batch, gates * first size]
        ``W_ih x`` of the first layer.
    weights : sequence of Tensor [models, ...]
        ``weight_ih, weight_hh, bias_ih, bias_hh`` of each layer.
    state : Tensor [models, batch, state size]
    keep : bool
        Keep the slots for the backward pass.

    Returns
    -------
    hidden, memory, slots : Tensor
        See :mod:`surrogate.kernels.triton.training.layout`; ``memory`` is empty where a cell has
        no c, ``slots`` if they are not kept.
    """
    models, steps, batch, _ = projected.shape
    iterations = steps + len(layout.sizes) - 1
    h, c = layout.spread_state(state)
    hidden = state.new_empty(models, iterations + 1, batch, layout.width)
    memory = state.new_empty(0) if c is None else torch.empty_like(hidden)
    slots_shape = (models, iterations, batch, layout.slots * layout.width)
    slots = state.new_empty(slots_shape if keep else 0)
    for layer, (first, width) in enumerate(zip(layout.offsets, layout.widths, strict=True)):
        columns = slice(first, first + width)
        hidden[:, : layer + 1, :, columns] = h[:, None, :, columns]
        if c is not None:
            memory[:, : layer + 1, :, columns] = c[:, None, :, columns]
    packed = layout.pack_weights(weights, transpose=False)
    buffers = (projected, packed, layout.pack_biases(weights), hidden, memory, slots)
    constants = kernel_constants(layout, tiling, backward=False) | {"KEEP": keep}
    if tiling.resident:
        resident_forward[(batch, models)](
            *buffers, batch, steps, **constants, num_warps=tiling.warps
        )
    else:
        failed = _launch_blocked(blocked_forward, buffers, layout, tiling, batch, steps, constants)
        _spoil(hidden, layout.columns(len(layout.sizes) - 1), failed)
    return hidden, memory, slots


def launch_backward(
    layout: StackLayout,
    tiling: Tiling,
    grad_top: Tensor,
    grad_state: Tensor,
    weights: Sequence[Tensor],
    hidden: Tensor,
    memory: Tensor,
    slots: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence backward.

    Parameters
    ----------
    grad_top : Tensor [models, batch, steps, last size]
    grad_state : Tensor [models, batch, state size]
        Of the final state.

    Returns
    -------
    grad_slots : Tensor
        As ``slots``; written only for the steps of each layer.
    grad_state : Tensor [models, batch, state size]
        Of the initial state.
    """
    models, batch, steps, _ = grad_top.shape
    grad_h, grad_c = layout.spread_state(grad_state)
    grad_slots = torch.empty_like(slots)
    packed = layout.pack_weights(weights, transpose=True)
    buffers = (
        grad_top.contiguous(),
        packed,
        hidden,
        memory,
        slots,
        grad_slots,
        grad_h,
        grad_h if grad_c is None else grad_c,
    )
    constants = kernel_constants(layout, tiling, backward=True)
    if tiling.resident:
        resident_backward[(batch, models)](
            *buffers, batch, steps, **constants, num_warps=tiling.warps
        )
    else:
        failed = _launch_blocked(blocked_backward, buffers, layout, tiling, batch, steps, constants)
        _spoil(grad_slots, layout.slot_columns(len(layout.sizes) - 1, "hh"), failed)
    initial_h = layout.by_layer(grad_h)
    for layer in range(len(layout.sizes)):
        first_step = grad_slots[:, layer, :, layout.slot_columns(layer, "hh")]
        rows = layout.rows_of_slots(first_step.transpose(1, 2), layer, "hh")
        initial_h[layer] = initial_h[layer] + rows.transpose(1, 2) @ weights[4 * layer + 1]
    initial_c = None if grad_c is None else layout.by_layer(grad_c)
    return grad_slots, layout.collect_state(initial_h, initial_c)


def weight_gradients(
    layout: StackLayout, steps: int, hidden: Tensor, grad_slots: Tensor
) -> list[Tensor]:
    """Gradients of all weights but the first, ``weight_ih`` of the first layer, in their order.

    Each matrix's is one product over all steps and sequences.
    """
    gradients: list[Tensor] = []
    for layer, width in enumerate(layout.widths):
        rows = slice(layer, layer + steps)
        matrices: list[Tensor] = []
        biases: list[Tensor] = []
        first = layout.slots * layout.offsets[layer]
        sums = grad_slots[:, rows, :, first : first + layout.slots * width].sum((1, 2))
        by_slot = sums.unflatten(1, (layout.slots, width))[:, :, : layout.sizes[layer]]
        for weight, source in (("ih", layer - 1), ("hh", layer)):
            of_gates = [by_slot[:, slot] for slot in layout.slots_of_gates(weight)]
            biases.append(torch.cat(of_gates, 1))
            if source < 0:
                continue
            grad = grad_slots[:, rows, :, layout.slot_columns(layer, weight)].flatten(1, 2)
            values = hidden[:, rows, :, layout.columns(source)].flatten(1, 2)
            matrices.append(layout.rows_of_slots(grad.transpose(1, 2) @ values, layer, weight))
        gradients += matrices + biases
    return gradients
