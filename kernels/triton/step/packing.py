"""The memory layout of a stack for steps, and the packing of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.cells import cell_of
from surrogate.kernels.triton.step.plan import StepPlan

__all__ = ["PackedLayer", "PackedLayout", "pack_weights"]

_ALIGNMENT = 32  # elements; 128 bytes of float32


class PackedLayer(NamedTuple):
    """Sizes and offsets of one recurrent layer; offsets in elements.

    Its weights are ``w_in [inputs, gates, width]``, ``w_hidden [hidden, gates, width]`` and
    ``bias [slots, width]``, transposed so that the units are contiguous. Padding is zero, so that
    padded units and inputs add nothing.
    """

    size: int
    state: int  # where h lies in a row of the state; c, if there is one, comes after it
    units: int  # of a block
    inner: int  # elements of a block of the inner product over this layer's units
    width: int  # size rounded up to blocks of units
    w_in: int
    w_hidden: int
    bias: int
    in_place: bool  # one block of units: h is overwritten at once


class PackedLayout(NamedTuple):
    """A stack as a compile-time argument of ``step_kernel``, with the blocks of a plan."""

    layers: tuple[PackedLayer, ...]
    head: tuple[int, ...]  # where a linear head's weights [hidden, 2] and biases [2] lie, or ()
    size: int  # elements of the packed weights
    row: int  # elements of a neuron's state
    gates: int
    slots: int
    apart: bool  # as Cell.apart
    memory: bool  # whether a layer's state has c

    @classmethod
    def of(cls, spec: StackSpec, plan: StepPlan) -> PackedLayout:
        """Lay out ``spec`` with the blocks of ``plan``."""
        cell, end, layers, inputs = cell_of(spec.arch), 0, [], spec.input_size

        def reserve(elements: int) -> int:
            nonlocal end
            start = end
            end += triton.cdiv(elements, _ALIGNMENT) * _ALIGNMENT
            return start

        for size, at in zip(spec.recurrent_sizes, spec.state_slices, strict=True):
            units, inner = plan.units_of(size), plan.inner_of(size)
            width = triton.cdiv(size, units) * units
            hidden = triton.cdiv(size, inner) * inner
            layers.append(
                PackedLayer(
                    size=size,
                    state=at["h"].start,
                    units=units,
                    inner=inner,
                    width=width,
                    w_in=reserve(inputs * spec.gates * width),
                    w_hidden=reserve(hidden * spec.gates * width),
                    bias=reserve(cell.slots * width),
                    in_place=width == units,
                )
            )
            inputs = hidden
        head = (reserve(inputs * 2), reserve(2)) if spec.head == "linear" else ()
        memory = len(spec.architecture.state_parts) == 2
        return cls(
            tuple(layers), head, end, spec.state_size, spec.gates, cell.slots, cell.apart, memory
        )


def pack_weights(
    spec: StackSpec, weights: Mapping[str, Tensor], layout: PackedLayout, dtype: torch.dtype
) -> Tensor:
    """Pack canonical ``weights``, [layout.size], or with their leading axis N, [N, layout.size]."""
    first = weights["layers.0.weight_ih_l0"]
    lead = first.shape[:-2]
    packed = torch.zeros(*lead, layout.size, dtype=dtype, device=first.device)

    def place(start: int, width: int, values: Tensor) -> None:
        rows, columns = values.shape[-2:]
        room = packed[..., start : start + rows * width].unflatten(-1, (rows, width))
        room[..., :columns] = values

    for index, layer in enumerate(layout.layers):
        parts = {
            name: weights[f"layers.{index}.{name}_l0"]
            .detach()
            .unflatten(len(lead), (-1, layer.size))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        for start, name in ((layer.w_in, "weight_ih"), (layer.w_hidden, "weight_hh")):
            by_input = parts[name].movedim(-1, len(lead))  # [..., inputs, gates, H]
            place(start, layer.width, by_input.flatten(-3, -2))
        biases = cell_of(spec.arch).bias_by_slot(parts["bias_ih"], parts["bias_hh"])
        place(layer.bias, layer.width, biases)
    if layout.head:
        place(layout.head[0], 2, weights["head.weight"].detach().mT)
        place(layout.head[1], 2, weights["head.bias"].detach()[..., None, :])
    return packed
