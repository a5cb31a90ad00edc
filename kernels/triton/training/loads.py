"""Device functions that read and write what the kernels of both directions share."""

# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["load_block", "load_layer", "load_parts", "load_stack", "store_parts"]

#: Columns of ``StackLayout.table``.
_TABLE_COLUMNS = tl.constexpr(8)


@triton.jit
def load_parts(source, place, stride, wanted, COUNT: tl.constexpr):
    """A tuple of ``COUNT`` tiles, ``stride`` apart; zeros where not ``wanted``."""
    parts = ()
    for part in tl.static_range(COUNT):
        parts = parts + (tl.load(source + (place + part * stride), mask=wanted, other=0),)
    return parts


@triton.jit
def store_parts(target, place, stride, parts, wanted, COUNT: tl.constexpr):
    """Write what :func:`load_parts` reads."""
    for part in tl.static_range(COUNT):
        tl.store(target + place + part * stride, parts[part], mask=wanted)


@triton.jit
def _load_matrices(weight, STACK: tl.constexpr, OF_ROWS: tl.constexpr, OF_COLUMNS: tl.constexpr):
    """A matrix of each gate, its rows and columns the units of two layers, in powers of two."""
    GATES: tl.constexpr = STACK.gates
    ROWS: tl.constexpr = STACK.sizes[OF_ROWS]
    COLUMNS: tl.constexpr = STACK.sizes[OF_COLUMNS]
    row = tl.arange(0, STACK.blocks[OF_ROWS])[:, None]
    column = tl.arange(0, STACK.blocks[OF_COLUMNS])[None, :]
    matrices = ()
    for gate in tl.static_range(GATES):
        place = weight + (gate * STACK.widths[OF_ROWS] + row) * STACK.widths[OF_COLUMNS] + column
        # Masks cost registers where there are none to spare.
        if STACK.blocks[OF_ROWS] == ROWS and STACK.blocks[OF_COLUMNS] == COLUMNS:
            matrix = tl.load(place)
        else:
            matrix = tl.load(place, mask=(row < ROWS) & (column < COLUMNS), other=0)
        matrices = matrices + (matrix,)
    return matrices


@triton.jit
def load_stack(weight, STACK: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Two tuples by layer, of matrices by gate: on the layer below (the first has 0), and its own.

    ``weight`` is ``StackLayout.pack_weights``, of one model.
    """
    from_below, own = (0,), ()
    for layer in tl.static_range(len(STACK.sizes)):
        if layer > 0:
            if TRANSPOSED:
                matrices = _load_matrices(weight, STACK, layer - 1, layer)
            else:
                matrices = _load_matrices(weight, STACK, layer, layer - 1)
            from_below = from_below + (matrices,)
            weight += STACK.gates * STACK.widths[layer] * STACK.widths[layer - 1]
        own = own + (_load_matrices(weight, STACK, layer, layer),)
        weight += STACK.gates * STACK.widths[layer] * STACK.widths[layer]
    return from_below, own


@triton.jit
def load_block(table, index, ALIGNMENT: tl.constexpr):
    """A row of ``StackLayout.table`` but for its first column, the layer.

    All are whole multiples of ``ALIGNMENT``; the compiler is told, so that loads take 16 bytes.
    """
    entry = table + index * _TABLE_COLUMNS
    size = tl.multiple_of(tl.load(entry + 2), ALIGNMENT)
    below = tl.multiple_of(tl.load(entry + 3), ALIGNMENT)
    above = tl.multiple_of(tl.load(entry + 4), ALIGNMENT)
    first = tl.multiple_of(tl.load(entry + 5), ALIGNMENT)
    start = tl.multiple_of(tl.load(entry + 6), ALIGNMENT)
    above_start = tl.multiple_of(tl.load(entry + 7), ALIGNMENT)
    unit = tl.multiple_of(tl.load(entry + 1), ALIGNMENT)
    return unit, size, below, above, first, start, above_start


@triton.jit
def load_layer(table, index):
    """The layer of a row of ``StackLayout.table``."""
    return tl.load(table + index * _TABLE_COLUMNS)
