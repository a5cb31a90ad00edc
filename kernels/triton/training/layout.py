r"""The training kernels' form of a stack: packed weights, unit blocks, buffers in skewed time.

In *skewed* time layer l computes step t = s - l at iteration s, so all layers of an iteration need
only the results of the iteration before, and L layers take T + L - 1 iterations instead of L T
dependent steps. Buffers are indexed by iteration and have all layers side by side:

- ``hidden``, ``memory`` [models, T + L, batch, width]: row s holds what iteration s reads, that is
  h (and c, if any) of layer l after step s - l - 1; rows 0 to l of layer l hold its initial
  state.
- ``slots``, their gradients [models, T + L - 1, batch, slots * width]: layer after layer, and slot
  after slot within a layer.

The factors of layer l at iteration s, its own h and that of the layer below, are in one row:
every weight gradient is one matrix product over rows l to l + T - 1.

A layer is as wide as its units, rounded up to a multiple of 16: the least a matrix product takes,
and aligned for loads of 16 bytes. The units in excess have zero weights and biases, so that they
stay at zero where a kernel computes them; other kernels leave them unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from surrogate.kernels.architectures import ARCHITECTURES
from surrogate.kernels.triton.cells import Cell, cell_of

__all__ = ["ALIGNMENT", "StackConstants", "StackLayout", "Tiling", "choose_tiling"]

ALIGNMENT = 16

#: Floats of padded weights that one program keeps in registers, besides its other values.
RESIDENT_FLOATS = 24 * 1024


@dataclass(frozen=True)
class Tiling:
    """How the programs of a launch share a stack.

    Attributes
    ----------
    resident : bool
        One program per model and sequence holds all weights in registers. Otherwise weights are
        read at every iteration, and the rest of the fields says by whom.
    units, inputs, batch : int
        Units, elements of the inner product and sequences of one block.
    parts : int
        Programs that share the blocks of a model and batch tile, a power of two.
    warps : int
        Warps of a program.
    """

    resident: bool
    units: int
    inputs: int
    batch: int
    parts: int
    warps: int


class StackConstants(NamedTuple):
    """The properties of a :class:`StackLayout` as a kernel's compile-time argument.

    Plain numbers, because Triton finds compiled kernels by the argument's text.
    """

    gates: int
    slots: int
    ih_slots: tuple[int, ...]
    hh_slots: tuple[int, ...]
    memory: bool
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    offsets: tuple[int, ...]
    width: int
    floats: int
    alignment: int


@dataclass(frozen=True)
class StackLayout:
    """Sizes and offsets of the recurrent layers of one stack.

    Attributes
    ----------
    arch : str
        A key of :data:`surrogate.kernels.ARCHITECTURES` that has Triton kernels.
    sizes : tuple of int
        Units of the recurrent layers, input side first.
    """

    arch: str
    sizes: tuple[int, ...]

    @property
    def cell(self) -> Cell:
        """The device functions of the layers."""
        return cell_of(self.arch)

    @property
    def gates(self) -> int:
        """Gates per unit, rows of a weight matrix over units."""
        return ARCHITECTURES[self.arch].gates

    @property
    def memory(self) -> bool:
        """Whether the state has a second part, c."""
        return len(ARCHITECTURES[self.arch].state_parts) == 2

    @property
    def slots(self) -> int:
        """Values kept per unit and step."""
        return self.cell.slots

    @property
    def constants(self) -> StackConstants:
        """The compile-time argument of the kernels."""
        return StackConstants(
            gates=self.gates,
            slots=self.slots,
            ih_slots=self.cell.ih_slots,
            hh_slots=self.cell.hh_slots,
            memory=self.memory,
            sizes=self.sizes,
            widths=self.widths,
            blocks=self.blocks,
            offsets=self.offsets,
            width=self.width,
            floats=self.floats,
            alignment=ALIGNMENT,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each layer."""
        return tuple(triton.cdiv(size, ALIGNMENT) * ALIGNMENT for size in self.sizes)

    @property
    def width(self) -> int:
        """Columns of all layers."""
        return sum(self.widths)

    @property
    def floats(self) -> int:
        """Elements of the packed weights."""
        below = (0, *self.widths[:-1])
        return self.gates * sum(w * (w + b) for w, b in zip(self.widths, below, strict=True))

    @property
    def offsets(self) -> tuple[int, ...]:
        """First column of each layer."""
        return tuple(accumulate(self.widths, initial=0))[:-1]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes rounded up to powers of two, which a block in registers must have."""
        return tuple(triton.next_power_of_2(size) for size in self.sizes)

    @property
    def resident_floats(self) -> int:
        """Weights of one program that keeps all of them, padding included."""
        own = sum(size * size for size in self.blocks)
        between = sum(a * b for a, b in zip(self.blocks, self.blocks[1:], strict=False))
        return self.gates * (own + between)

    def training_bytes(self, batch: int, steps: int) -> int:
        """Memory that one model's forward and backward pass takes in float32, weights left out.

        The values kept for the backward pass, their gradients, the first layer's input, and the
        copies for the products of the widest layer.
        """
        kept = self.width * (1 + self.memory + 2 * self.slots)
        copied = (self.gates + 1) * max(self.widths)
        rows = (steps + len(self.sizes)) * batch
        return 4 * rows * (kept + self.gates * self.widths[0] + copied)

    def columns(self, layer: int) -> slice:
        """The columns of a layer's units in ``hidden`` and ``memory``."""
        first = self.offsets[layer]
        return slice(first, first + self.sizes[layer])

    def slot_columns(self, layer: int, weight: str) -> slice:
        """The columns of the gradients of a layer's rows of ``weight`` ("ih" or "hh") in the slots.

        Gates are as wide as the layer, and in the order of their slots.
        """
        width = self.widths[layer]
        first = self.slots * self.offsets[layer] + min(self.slots_of_gates(weight)) * width
        return slice(first, first + self.gates * width)

    def slots_of_gates(self, weight: str) -> tuple[int, ...]:
        """The slot whose gradient belongs to each gate's rows of ``weight`` ("ih" or "hh")."""
        return self.cell.ih_slots if weight == "ih" else self.cell.hh_slots

    def pad_rows(self, rows: Tensor, layer: int) -> Tensor:
        """``[models, gates * size, ...]`` to ``[models, gates, width, ...]``, zeros in excess."""
        by_gate = rows.unflatten(1, (self.gates, self.sizes[layer]))
        excess = self.widths[layer] - self.sizes[layer]
        # Most layers need no padding, and it would copy them.
        return F.pad(by_gate, (0, 0) * (by_gate.dim() - 3) + (0, excess)) if excess else by_gate

    def rows_of_slots(self, slots: Tensor, layer: int, weight: str) -> Tensor:
        """Rows of ``weight`` ("ih" or "hh") from the columns :meth:`slot_columns`.

        ``[models, gates * width, ...]`` to ``[models, gates * size, ...]``.
        """
        by_gate = slots.unflatten(1, (self.gates, self.widths[layer]))[:, :, : self.sizes[layer]]
        of_gates = self.slots_of_gates(weight)
        if list(of_gates) != sorted(of_gates):
            by_gate = by_gate[:, [slot - min(of_gates) for slot in of_gates]]
        return by_gate.flatten(1, 2)

    def pack_weights(self, weights: Sequence[Tensor], transpose: bool) -> Tensor:
        """All matrices the recurrence needs, gate by gate and row-major, [models, floats].

        Layer by layer, ``weight_ih`` (except the first layer's) then ``weight_hh``, padded.

        Parameters
        ----------
        weights : sequence of Tensor [models, ...]
            ``weight_ih, weight_hh, bias_ih, bias_hh`` of each layer.
        transpose : bool
            Transpose each gate's matrix, for the products of the backward pass.
        """
        parts = []
        for layer in range(len(self.sizes)):
            for source in (layer - 1, layer):
                if source < 0:
                    continue
                matrix = self.pad_rows(weights[4 * layer + (source == layer)], layer)
                if self.widths[source] > self.sizes[source]:
                    matrix = F.pad(matrix, (0, self.widths[source] - self.sizes[source]))
                parts.append((matrix.transpose(2, 3) if transpose else matrix).flatten(1))
        return torch.cat(parts, 1)

    def pack_biases(self, weights: Sequence[Tensor]) -> Tensor:
        """Biases by slot, [models, slots * width]."""
        parts = []
        for layer in range(len(self.sizes)):
            biases = (self.pad_rows(bias, layer) for bias in weights[4 * layer + 2 : 4 * layer + 4])
            parts.append(self.cell.bias_by_slot(*biases).flatten(1))
        return torch.cat(parts, 1)

    def spread_state(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """h and c of all layers, [..., width] each with zeros in excess, from canonical rows."""
        kinds = 1 + self.memory
        parts = state.split([size for size in self.sizes for _ in range(kinds)], -1)
        padded = [
            F.pad(part, (0, self.widths[index // kinds] - part.shape[-1]))
            for index, part in enumerate(parts)
        ]
        h = torch.cat(padded[::kinds], -1)
        return h, torch.cat(padded[1::2], -1) if kinds == 2 else None

    def collect_state(self, h: Sequence[Tensor], c: Sequence[Tensor] | None) -> Tensor:
        """Canonical state rows from h and c by layer: layers in order, h then c."""
        kinds = [h] if c is None else [h, c]
        return torch.cat([part for parts in zip(*kinds, strict=True) for part in parts], -1)

    def by_layer(self, rows: Tensor) -> list[Tensor]:
        """Each layer's units of ``[..., width]``."""
        return [rows[..., self.columns(layer)] for layer in range(len(self.sizes))]

    def table(self, block: int) -> list[list[int]]:
        """The blocks of at most ``block`` columns, widest inner product first.

        Columns: layer, its first column in the block, its width, the width of the layer below (0
        for the first) and above (0 for the last), its first column among all, and where its
        matrices and those of the layer above begin in the packed weights.
        """
        rows, start = [], 0
        for layer, (width, first) in enumerate(zip(self.widths, self.offsets, strict=True)):
            below = self.widths[layer - 1] if layer else 0
            above = self.widths[layer + 1] if layer + 1 < len(self.widths) else 0
            stop = start + self.gates * width * (below + width)
            rows += [
                [layer, column, width, below, above, first, start, stop]
                for column in range(0, width, block)
            ]
            start = stop
        return sorted(rows, key=lambda row: row[2] + row[3], reverse=True)


def choose_tiling(layout: StackLayout, batch: int, models: int, processors: int) -> Tiling:
    """The mapping used when none is given; a function of sizes alone, nothing is tuned at run time.

    Small stacks stay in registers, of eight warps where four have too few for weights and a step's
    values. The blocks of a wide stack are shared by as many programs as run at once, one on each
    of the GPU's ``processors``, with the smallest batch tile for which they suffice.
    """
    floats = layout.resident_floats
    if floats <= RESIDENT_FLOATS:
        return Tiling(True, 0, 0, 1, 1, 4 if floats <= RESIDENT_FLOATS // 3 else 8)
    units = 16
    blocks = sum(triton.cdiv(width, units) for width in layout.widths)
    for tile in (8, 16, 32):
        groups = models * triton.cdiv(batch, tile)
        if groups * blocks <= processors:
            break
    parts = 1
    while 2 * parts * groups <= processors and parts < blocks:
        parts *= 2
    return Tiling(False, units, 64, tile, parts, 4)
