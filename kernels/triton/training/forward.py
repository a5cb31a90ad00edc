"""The recurrence of a whole stack in one launch, forward, in skewed time.

Two mappings of one computation: :func:`resident_forward` for stacks whose weights fit a program's
registers, :func:`blocked_forward` for all others. ``layout`` describes the buffers, and ``STACK``
and ``TILING`` with them; ``CELL`` is the forward function of a :class:`Cell`.
"""

# Device code has no annotations, and its tuples grow.
# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

from surrogate.kernels.triton.barrier import COUNTER_STRIDE, group_barrier
from surrogate.kernels.triton.training.loads import (
    load_block,
    load_layer,
    load_parts,
    load_stack,
    store_parts,
)

__all__ = ["blocked_forward", "resident_forward"]


@triton.jit
def _multiply(matrices, vector, GATES: tl.constexpr):
    """The product of each gate's matrix with one vector."""
    products = ()
    for gate in tl.static_range(GATES):
        products = products + (tl.sum(matrices[gate] * vector[None, :], 1),)
    return products


@triton.jit(do_not_specialize=["batch", "steps"])
def resident_forward(
    projected,  # [models, steps, batch, gates * first width]
    weight,  # [models, floats], StackLayout.pack_weights
    bias,  # [models, slots * width]
    hidden,  # [models, steps + layers, batch, width]; rows 0 to l of layer l are given
    memory,  # as hidden; read and written if the cell has c
    slots,  # [models, steps + layers - 1, batch, slots * width]; written if KEEP
    batch,
    steps,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
    KEEP: tl.constexpr,
):
    """One program runs one sequence through one model, with all weights and states in registers."""
    GATES: tl.constexpr = STACK.gates
    SLOTS: tl.constexpr = STACK.slots
    WIDTH: tl.constexpr = STACK.width
    LAYERS: tl.constexpr = len(STACK.sizes)
    sequence = tl.program_id(0)
    model = tl.program_id(1).to(tl.int64)
    iterations = steps + LAYERS - 1
    projected += (model * steps * batch + sequence) * (GATES * STACK.widths[0])
    bias += model * (SLOTS * WIDTH)
    hidden += (model * (iterations + 1) * batch + sequence) * WIDTH
    memory += (model * (iterations + 1) * batch + sequence) * WIDTH
    slots += (model * iterations * batch + sequence) * (SLOTS * WIDTH)

    from_below, own = load_stack(weight + model * STACK.floats, STACK, TRANSPOSED=False)
    biases, h, c = (), (), ()
    for layer in tl.static_range(LAYERS):
        first = STACK.offsets[layer]
        unit = tl.arange(0, STACK.blocks[layer])
        wanted = unit < STACK.sizes[layer]
        place = SLOTS * first + unit
        biases = biases + (load_parts(bias, place, STACK.widths[layer], wanted, SLOTS),)
        h = h + (tl.load(hidden + first + unit, mask=wanted, other=0),)
        if STACK.memory:
            c = c + (tl.load(memory + first + unit, mask=wanted, other=0),)
        else:
            c = c + (h[layer],)

    for s in tl.range(0, iterations, num_stages=2):
        hidden += batch * WIDTH
        memory += batch * WIDTH
        new_h, new_c = (), ()
        for layer in tl.static_range(LAYERS):
            first = STACK.offsets[layer]
            unit = tl.arange(0, STACK.blocks[layer])
            active = (s >= layer) & (s < steps + layer)
            wanted = (unit < STACK.sizes[layer]) & active
            if layer == 0:
                from_input = load_parts(projected, unit, STACK.widths[0], wanted, GATES)
            else:
                from_input = _multiply(from_below[layer], h[layer - 1], GATES)
            from_hidden = _multiply(own[layer], h[layer], GATES)
            kept, next_h, next_c = CELL(from_input, from_hidden, biases[layer], h[layer], c[layer])
            tl.store(hidden + first + unit, next_h, mask=wanted)
            if STACK.memory:
                tl.store(memory + first + unit, next_c, mask=wanted)
            if KEEP:
                place = SLOTS * first + unit
                store_parts(slots, place, STACK.widths[layer], kept, wanted, SLOTS)
            new_h = new_h + (tl.where(active, next_h, h[layer]),)
            new_c = new_c + (tl.where(active, next_c, c[layer]),)
        h, c = new_h, new_c
        projected += batch * (GATES * STACK.widths[0])
        slots += batch * (SLOTS * WIDTH)


@triton.jit
def _add_products(
    totals,
    weight,  # [gates, size, inputs]
    vector,  # the first input of sequence 0
    rows,  # [1, sequences], where each sequence's inputs lie from there
    unit,
    size,
    inputs,
    wanted_sequence,
    GATES: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Add each gate's matrix times the vectors of a batch tile to [units, sequences] totals."""
    wanted = unit < size
    for first in range(0, inputs, INPUTS):
        column = first + tl.arange(0, INPUTS)
        inside = column < inputs
        # Another multiprocessor may have written it: only the shared cache is up to date.
        block = tl.load(
            vector + rows + column[:, None],
            mask=inside[:, None] & wanted_sequence[None, :],
            other=0,
            cache_modifier=".cg",
        )
        new = ()
        for gate in tl.static_range(GATES):
            place = (gate * size + unit)[:, None] * inputs + column[None, :]
            matrix = tl.load(weight + place, mask=wanted[:, None] & inside[None, :], other=0)
            total = totals[gate]
            total = tl.dot(matrix, block, total, input_precision="ieee", out_dtype=total.dtype)
            new = new + (total,)
        totals = new
    return totals


@triton.jit(do_not_specialize=["blocks", "batch", "steps"])
def blocked_forward(
    projected,  # [models, steps, batch, gates * first width]
    weight,  # [models, floats], StackLayout.pack_weights
    bias,  # [models, slots * width]
    hidden,  # [models, steps + layers, batch, width]; rows 0 to l of layer l are given
    memory,  # as hidden; read and written if the cell has c
    slots,  # [models, steps + layers - 1, batch, slots * width]; written if KEEP
    table,  # int32 [blocks, columns], StackLayout.table
    arrived,  # int32 [models, batch tiles, COUNTER_STRIDE], zeros; used if programs share a tile
    failed,  # int32 [1], zero; see group_barrier
    blocks,
    batch,
    steps,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
    KEEP: tl.constexpr,
    TILING: tl.constexpr,
    POLLS: tl.constexpr,
):
    """``TILING.parts`` programs run a batch tile through one model, weights from the caches."""
    GATES: tl.constexpr = STACK.gates
    SLOTS: tl.constexpr = STACK.slots
    WIDTH: tl.constexpr = STACK.width
    FIRST_ROWS: tl.constexpr = GATES * STACK.widths[0]
    SLOT_WIDTH: tl.constexpr = SLOTS * WIDTH
    part = tl.program_id(0)
    sequence = tl.program_id(1) * TILING.batch + tl.arange(0, TILING.batch)
    wanted_sequence = sequence < batch
    model = tl.program_id(2).to(tl.int64)
    iterations = steps + len(STACK.sizes) - 1
    projected += model * steps * batch * FIRST_ROWS
    weight += model * STACK.floats
    bias += model * SLOT_WIDTH
    hidden += model * (iterations + 1) * batch * WIDTH
    memory += model * (iterations + 1) * batch * WIDTH
    slots += model * iterations * batch * SLOT_WIDTH
    arrived += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * COUNTER_STRIDE
    for s in range(iterations):
        for index in range(part, blocks, TILING.parts):
            layer = load_layer(table, index)
            if (s >= layer) & (s < steps + layer):
                column, size, below, _, first, start, _ = load_block(table, index, STACK.alignment)
                unit = column + tl.arange(0, TILING.units)
                row = sequence[None, :] * WIDTH
                wanted = unit < size
                inside = wanted[:, None] & wanted_sequence[None, :]
                place = (SLOTS * first + unit)[:, None]
                biases = load_parts(bias, place, size, wanted[:, None], SLOTS)
                place = sequence[None, :] * FIRST_ROWS + unit[:, None]
                from_input = load_parts(projected, place, size, inside & (layer == 0), GATES)
                from_hidden = ()
                for gate in tl.static_range(GATES):
                    from_hidden = from_hidden + (tl.zeros_like(from_input[gate]),)
                from_input = _add_products(
                    from_input,
                    weight + start,
                    hidden + first - below,
                    row,
                    unit,
                    size,
                    below,
                    wanted_sequence,
                    GATES,
                    TILING.inputs,
                )
                from_hidden = _add_products(
                    from_hidden,
                    weight + start + GATES * size * below,
                    hidden + first,
                    row,
                    unit,
                    size,
                    size,
                    wanted_sequence,
                    GATES,
                    TILING.inputs,
                )
                state = first + row + unit[:, None]
                h = tl.load(hidden + state, mask=inside, other=0)
                c = h
                if STACK.memory:
                    c = tl.load(memory + state, mask=inside, other=0)
                kept, h, c = CELL(from_input, from_hidden, biases, h, c)
                tl.store(hidden + batch * WIDTH + state, h, mask=inside)
                if STACK.memory:
                    tl.store(memory + batch * WIDTH + state, c, mask=inside)
                if KEEP:
                    place = sequence[None, :] * SLOT_WIDTH + SLOTS * first + unit[:, None]
                    store_parts(slots, place, size, kept, inside, SLOTS)
        if TILING.parts > 1:
            group_barrier(arrived, failed, TILING.parts, POLLS)
        else:
            tl.debug_barrier()
        projected += batch * FIRST_ROWS
        hidden += batch * WIDTH
        memory += batch * WIDTH
        slots += batch * SLOT_WIDTH
