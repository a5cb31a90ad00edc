"""The backward pass through a whole stack in one launch, in skewed time.

At iteration s, counted down, layer l has step t = s - l: its own next step and the same step of the
layer above both ended at iteration s + 1, whose gradients are all that an iteration needs. The
gradients of the slots are written for every step; weight gradients are matrix products of them.
``CELL`` is the backward function of a :class:`Cell`.
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

__all__ = ["blocked_backward", "resident_backward"]


@triton.jit
def _multiply(matrices, grads, SLOTS_OF_GATES: tl.constexpr):
    """The sum over gates of a transposed matrix times the gradient of the gate's slot."""
    total = matrices[0] * grads[SLOTS_OF_GATES[0]][None, :]
    for gate in tl.static_range(1, len(SLOTS_OF_GATES)):
        total += matrices[gate] * grads[SLOTS_OF_GATES[gate]][None, :]
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["batch", "steps"])
def resident_backward(
    grad_top,  # [models, batch, steps, last size]
    weight,  # [models, floats], StackLayout.pack_weights, transposed
    hidden,  # as the forward pass left it, like the next two
    memory,
    slots,
    grad_slots,  # as slots
    grad_h,  # [models, batch, width]: of the final state; what passes by the first step, after
    grad_c,  # as grad_h; read and written if the cell has c
    batch,
    steps,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
):
    """Backward of one sequence of one model in one program, with all weights in registers."""
    SLOTS: tl.constexpr = STACK.slots
    # Bound to names, for Triton 3.6 takes a tuple that an attribute gives for several arguments.
    IH_SLOTS: tl.constexpr = STACK.ih_slots
    HH_SLOTS: tl.constexpr = STACK.hh_slots
    WIDTH: tl.constexpr = STACK.width
    LAYERS: tl.constexpr = len(STACK.sizes)
    sequence = tl.program_id(0)
    model = tl.program_id(1).to(tl.int64)
    iterations = steps + LAYERS - 1
    grad_top += (model * batch + sequence) * steps * STACK.sizes[LAYERS - 1]
    grad_h += (model * batch + sequence) * WIDTH
    grad_c += (model * batch + sequence) * WIDTH
    hidden += ((model * (iterations + 1) + iterations) * batch + sequence) * WIDTH
    memory += ((model * (iterations + 1) + iterations) * batch + sequence) * WIDTH
    slots += ((model * iterations + iterations) * batch + sequence) * (SLOTS * WIDTH)
    grad_slots += ((model * iterations + iterations) * batch + sequence) * (SLOTS * WIDTH)

    to_below, own = load_stack(weight + model * STACK.floats, STACK, TRANSPOSED=True)
    passing_h, passing_c, grads = (), (), ()
    for layer in tl.static_range(LAYERS):
        first = STACK.offsets[layer]
        unit = tl.arange(0, STACK.blocks[layer])
        wanted = unit < STACK.sizes[layer]
        passing_h = passing_h + (tl.load(grad_h + first + unit, mask=wanted, other=0),)
        nothing = tl.zeros_like(passing_h[layer])
        if STACK.memory:
            passing_c = passing_c + (tl.load(grad_c + first + unit, mask=wanted, other=0),)
        else:
            passing_c = passing_c + (nothing,)
        of_layer = ()
        for _ in tl.static_range(SLOTS):
            of_layer = of_layer + (nothing,)
        grads = grads + (of_layer,)

    for back in tl.range(0, iterations, num_stages=2):
        s = iterations - 1 - back
        hidden -= batch * WIDTH
        memory -= batch * WIDTH
        slots -= batch * (SLOTS * WIDTH)
        grad_slots -= batch * (SLOTS * WIDTH)
        new_grads, new_h, new_c = (), (), ()
        for layer in tl.static_range(LAYERS):
            first = STACK.offsets[layer]
            unit = tl.arange(0, STACK.blocks[layer])
            t = s - layer
            active = (t >= 0) & (t < steps)
            wanted = (unit < STACK.sizes[layer]) & active
            dh = passing_h[layer] + _multiply(own[layer], grads[layer], HH_SLOTS)
            if layer == LAYERS - 1:
                dh += tl.load(grad_top + t * STACK.sizes[layer] + unit, mask=wanted, other=0)
            else:
                dh += _multiply(to_below[layer + 1], grads[layer + 1], IH_SLOTS)
            h = tl.load(hidden + first + unit, mask=wanted, other=0)
            c, c_after = h, h
            if STACK.memory:
                c = tl.load(memory + first + unit, mask=wanted, other=0)
                c_after = tl.load(memory + batch * WIDTH + first + unit, mask=wanted, other=0)
            place = SLOTS * first + unit
            kept = load_parts(slots, place, STACK.widths[layer], wanted, SLOTS)
            step_grads, next_h, next_c = CELL(kept, h, c, c_after, dh, passing_c[layer])
            store_parts(grad_slots, place, STACK.widths[layer], step_grads, wanted, SLOTS)
            of_layer = ()
            for slot in tl.static_range(SLOTS):
                of_layer = of_layer + (tl.where(active, step_grads[slot], 0),)
            tl.store(grad_h + first + unit, next_h, mask=wanted & (t == 0))
            if STACK.memory:
                tl.store(grad_c + first + unit, next_c, mask=wanted & (t == 0))
            new_grads = new_grads + (of_layer,)
            new_h = new_h + (tl.where(active, next_h, passing_h[layer]),)
            new_c = new_c + (tl.where(active, next_c, passing_c[layer]),)
        grads, passing_h, passing_c = new_grads, new_h, new_c


@triton.jit
def _add_products(
    total,
    weight,  # [gates, size, rows]
    vectors,  # [1, sequences], where each sequence's first slot lies; slot after slot of rows
    unit,
    size,
    rows,
    wanted_sequence,
    SLOTS_OF_GATES: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Add the gates' transposed matrices times the slots' gradients to [units, sequences]."""
    wanted = unit < size
    for first in range(0, rows, INPUTS):
        row = first + tl.arange(0, INPUTS)
        inside = row < rows
        for gate in tl.static_range(len(SLOTS_OF_GATES)):
            place = (gate * size + unit)[:, None] * rows + row[None, :]
            matrix = tl.load(weight + place, mask=wanted[:, None] & inside[None, :], other=0)
            slot = SLOTS_OF_GATES[gate] * rows + row
            # Another multiprocessor may have written it: only the shared cache is up to date.
            block = tl.load(
                vectors + slot[:, None],
                mask=inside[:, None] & wanted_sequence[None, :],
                other=0,
                cache_modifier=".cg",
            )
            total = tl.dot(matrix, block, total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit(do_not_specialize=["blocks", "batch", "steps"])
def blocked_backward(
    grad_top,  # [models, batch, steps, last size]
    weight,  # [models, floats], StackLayout.pack_weights, transposed
    hidden,  # as the forward pass left it, like the next two
    memory,
    slots,
    grad_slots,  # as slots
    grad_h,  # [models, batch, width]: of the final state; what passes by the first step, after
    grad_c,  # as grad_h; read and written if the cell has c
    table,  # int32 [blocks, columns], StackLayout.table
    arrived,  # int32 [models, batch tiles, COUNTER_STRIDE], zeros; used if programs share a tile
    failed,  # int32 [1], zero; see group_barrier
    blocks,
    batch,
    steps,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
    TILING: tl.constexpr,
    POLLS: tl.constexpr,
):
    """Backward of a batch tile of one model in ``TILING.parts`` programs, weights from caches."""
    SLOTS: tl.constexpr = STACK.slots
    IH_SLOTS: tl.constexpr = STACK.ih_slots
    HH_SLOTS: tl.constexpr = STACK.hh_slots
    WIDTH: tl.constexpr = STACK.width
    LAYERS: tl.constexpr = len(STACK.sizes)
    SLOT_WIDTH: tl.constexpr = SLOTS * WIDTH
    ALIGNMENT: tl.constexpr = STACK.alignment
    LAST_SIZE: tl.constexpr = STACK.sizes[LAYERS - 1]
    part = tl.program_id(0)
    row = tl.arange(0, TILING.batch)
    sequence = tl.program_id(1) * TILING.batch + row
    wanted_sequence = sequence < batch
    model = tl.program_id(2).to(tl.int64)
    iterations = steps + LAYERS - 1
    weight += model * STACK.floats
    # From the tile's first sequence on, because offsets over all sequences may need 64 bits.
    grad_top += (model * batch + tl.program_id(1) * TILING.batch) * steps * LAST_SIZE
    grad_h += model * batch * WIDTH
    grad_c += model * batch * WIDTH
    hidden += (model * (iterations + 1) + iterations) * batch * WIDTH
    memory += (model * (iterations + 1) + iterations) * batch * WIDTH
    slots += (model + 1) * iterations * batch * SLOT_WIDTH
    grad_slots += (model + 1) * iterations * batch * SLOT_WIDTH
    arrived += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * COUNTER_STRIDE
    slot_row = sequence[None, :] * SLOT_WIDTH
    for back in range(iterations):
        s = iterations - 1 - back
        hidden -= batch * WIDTH
        memory -= batch * WIDTH
        slots -= batch * SLOT_WIDTH
        grad_slots -= batch * SLOT_WIDTH
        for index in range(part, blocks, TILING.parts):
            t = s - load_layer(table, index)
            if (t >= 0) & (t < steps):
                column, size, below, above, first, start, above_start = load_block(
                    table, index, ALIGNMENT
                )
                unit = column + tl.arange(0, TILING.units)
                inside = (unit < size)[:, None] & wanted_sequence[None, :]
                state = first + sequence[None, :] * WIDTH + unit[:, None]
                wanted_top = (above == 0) & (unit < LAST_SIZE)[:, None]
                top = (row[None, :] * steps + t) * LAST_SIZE + unit[:, None]
                dh = tl.load(grad_top + top, mask=inside & wanted_top, other=0)
                dh = _add_products(
                    dh,
                    weight + above_start,
                    grad_slots + batch * SLOT_WIDTH + SLOTS * (first + size) + slot_row,
                    unit,
                    size,
                    above,
                    wanted_sequence,
                    IH_SLOTS,
                    TILING.inputs,
                )
                # The last step has no next step: the gradient of its state is given.
                dh = _add_products(
                    dh,
                    weight + start + STACK.gates * size * below,
                    grad_slots + batch * SLOT_WIDTH + SLOTS * first + slot_row,
                    unit,
                    size,
                    tl.multiple_of(tl.where(t + 1 < steps, size, 0), ALIGNMENT),
                    wanted_sequence,
                    HH_SLOTS,
                    TILING.inputs,
                )
                dh += tl.load(grad_h + state, mask=inside, other=0)
                h = tl.load(hidden + state, mask=inside, other=0)
                c, c_after, dc = h, h, h
                if STACK.memory:
                    c = tl.load(memory + state, mask=inside, other=0)
                    c_after = tl.load(memory + batch * WIDTH + state, mask=inside, other=0)
                    dc = tl.load(grad_c + state, mask=inside, other=0)
                place = slot_row + SLOTS * first + unit[:, None]
                kept = load_parts(slots, place, size, inside, SLOTS)
                grads, dh, dc = CELL(kept, h, c, c_after, dh, dc)
                store_parts(grad_slots, place, size, grads, inside, SLOTS)
                tl.store(grad_h + state, dh, mask=inside)
                if STACK.memory:
                    tl.store(grad_c + state, dc, mask=inside)
        if TILING.parts > 1:
            group_barrier(arrived, failed, TILING.parts, POLLS)
        else:
            tl.debug_barrier()
