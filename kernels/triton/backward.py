"""The way back through a whole stack in one launch, in skewed time.

At iteration s, counted down, layer l has step t = s - l: its own next step and the same step of the
layer above both ended at iteration s + 1, whose gradients are all that an iteration needs. The
gradients of the slots are written for every step; weight gradients are matrix products of them.
"""

# Device code has no annotations, and its tuples grow.
# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

from surrogate.kernels.triton.barrier import group_barrier
from surrogate.kernels.triton.cells import cell_backward
from surrogate.kernels.triton.forward import load_matrices

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
    weight,  # [models, FLOATS], StackLayout.pack_weights, transposed
    hidden,
    memory,
    slots,
    grad_slots,  # as slots
    grad_h,  # [models, batch, width]: of the final state; what passes by the first step, after
    grad_c,  # as grad_h; read and written by the LSTM alone
    batch,
    steps,
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    IH_SLOTS: tl.constexpr,
    HH_SLOTS: tl.constexpr,
    FLOATS: tl.constexpr,
    SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program walks one sequence of one model back, with all weights in registers."""
    sequence = tl.program_id(0)
    model = tl.program_id(1).to(tl.int64)
    LAYERS: tl.constexpr = len(SIZES)
    iterations = steps + LAYERS - 1
    weight += model * FLOATS
    grad_top += (model * batch + sequence) * steps * SIZES[LAYERS - 1]
    grad_h += (model * batch + sequence) * WIDTH
    grad_c += (model * batch + sequence) * WIDTH
    hidden += ((model * (iterations + 1) + iterations) * batch + sequence) * WIDTH
    memory += ((model * (iterations + 1) + iterations) * batch + sequence) * WIDTH
    slots += ((model * iterations + iterations) * batch + sequence) * (SLOTS * WIDTH)
    grad_slots += ((model * iterations + iterations) * batch + sequence) * (SLOTS * WIDTH)

    own, to_below, passing_h, passing_c, grads = (), (), (), (), ()
    first = 0
    for layer in tl.static_range(LAYERS):
        if layer == 0:
            to_below = to_below + (0,)
        else:
            to_below = to_below + (
                load_matrices(
                    weight,
                    SIZES[layer - 1],
                    SIZES[layer],
                    WIDTHS[layer - 1],
                    WIDTHS[layer],
                    GATES,
                    BLOCKS[layer - 1],
                    BLOCKS[layer],
                ),
            )
            weight += GATES * WIDTHS[layer] * WIDTHS[layer - 1]
        own = own + (
            load_matrices(
                weight,
                SIZES[layer],
                SIZES[layer],
                WIDTHS[layer],
                WIDTHS[layer],
                GATES,
                BLOCKS[layer],
                BLOCKS[layer],
            ),
        )
        weight += GATES * WIDTHS[layer] * WIDTHS[layer]
        unit = tl.arange(0, BLOCKS[layer])
        wanted = unit < SIZES[layer]
        passing_h = passing_h + (tl.load(grad_h + first + unit, mask=wanted, other=0),)
        if ARCH == "lstm":
            passing_c = passing_c + (tl.load(grad_c + first + unit, mask=wanted, other=0),)
        else:
            passing_c = passing_c + (tl.zeros_like(passing_h[layer]),)
        of_layer = ()
        for _ in tl.static_range(SLOTS):
            of_layer = of_layer + (tl.zeros_like(passing_h[layer]),)
        grads = grads + (of_layer,)
        first += WIDTHS[layer]

    for back in tl.range(0, iterations, num_stages=2):
        s = iterations - 1 - back
        hidden -= batch * WIDTH
        memory -= batch * WIDTH
        slots -= batch * (SLOTS * WIDTH)
        grad_slots -= batch * (SLOTS * WIDTH)
        new_grads, new_h, new_c = (), (), ()
        first = 0
        for layer in tl.static_range(LAYERS):
            unit = tl.arange(0, BLOCKS[layer])
            t = s - layer
            active = (t >= 0) & (t < steps)
            wanted = (unit < SIZES[layer]) & active
            dh = passing_h[layer] + _multiply(own[layer], grads[layer], HH_SLOTS)
            if layer == LAYERS - 1:
                dh += tl.load(grad_top + t * SIZES[layer] + unit, mask=wanted, other=0)
            else:
                dh += _multiply(to_below[layer + 1], grads[layer + 1], IH_SLOTS)
            h = tl.load(hidden + first + unit, mask=wanted, other=0)
            c, c_after = h, h
            if ARCH == "lstm":
                c = tl.load(memory + first + unit, mask=wanted, other=0)
                c_after = tl.load(memory + batch * WIDTH + first + unit, mask=wanted, other=0)
            kept = ()
            for slot in tl.static_range(SLOTS):
                place = SLOTS * first + slot * WIDTHS[layer] + unit
                kept = kept + (tl.load(slots + place, mask=wanted, other=0),)
            step_grads, next_h, next_c = cell_backward(
                ARCH, kept, h, c, c_after, dh, passing_c[layer]
            )
            of_layer = ()
            for slot in tl.static_range(SLOTS):
                place = SLOTS * first + slot * WIDTHS[layer] + unit
                tl.store(grad_slots + place, step_grads[slot], mask=wanted)
                of_layer = of_layer + (tl.where(active, step_grads[slot], 0),)
            tl.store(grad_h + first + unit, next_h, mask=wanted & (t == 0))
            if ARCH == "lstm":
                tl.store(grad_c + first + unit, next_c, mask=wanted & (t == 0))
            new_grads = new_grads + (of_layer,)
            new_h = new_h + (tl.where(active, next_h, passing_h[layer]),)
            new_c = new_c + (tl.where(active, next_c, passing_c[layer]),)
            first += WIDTHS[layer]
        grads, passing_h, passing_c = new_grads, new_h, new_c


@triton.jit
def _add_products(
    total,
    weight,  # [gates, size, rows]
    vectors,  # [sequences, ...], with a stride between sequences; slot after slot of rows
    unit,
    wanted,
    size,
    rows,
    sequence,
    wanted_sequence,
    stride,
    SLOTS_OF_GATES: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Add the gates' transposed matrices times the slots' gradients to [units, sequences]."""
    for first in range(0, rows, INPUTS):
        row = first + tl.arange(0, INPUTS)
        inside = row < rows
        for gate in tl.static_range(len(SLOTS_OF_GATES)):
            place = (gate * size + unit)[:, None] * rows + row[None, :]
            matrix = tl.load(weight + place, mask=wanted[:, None] & inside[None, :], other=0)
            slot = SLOTS_OF_GATES[gate] * rows + row
            # Another multiprocessor may have written it: only the cache they share is current.
            block = tl.load(
                vectors + sequence[None, :] * stride + slot[:, None],
                mask=inside[:, None] & wanted_sequence[None, :],
                other=0,
                cache_modifier=".cg",
            )
            total = tl.dot(matrix, block, total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit(do_not_specialize=["blocks", "batch", "steps"])
def blocked_backward(
    grad_top,  # [models, batch, steps, last size]
    weight,  # [models, FLOATS], StackLayout.pack_weights, transposed
    hidden,
    memory,
    slots,
    grad_slots,  # as slots
    grad_h,  # [models, batch, width]: of the final state; what passes by the first step, after
    grad_c,  # as grad_h; read and written by the LSTM alone
    table,  # int32 [blocks, columns], StackLayout.table
    arrived,  # int32 [models, batch tiles, COUNTER_STRIDE], zeros; used if PARTS > 1
    failed,  # int32 [1], zero; see group_barrier
    blocks,
    batch,
    steps,
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    IH_SLOTS: tl.constexpr,
    HH_SLOTS: tl.constexpr,
    FLOATS: tl.constexpr,
    SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TABLE_COLUMNS: tl.constexpr,
    UNIT_BLOCK: tl.constexpr,
    INPUT_BLOCK: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    COUNTER_STRIDE: tl.constexpr,
    POLLS: tl.constexpr,
):
    """``PARTS`` programs walk a batch tile of one model back; weights come from the caches."""
    part = tl.program_id(0)
    row = tl.arange(0, BATCH_BLOCK)
    sequence = tl.program_id(1) * BATCH_BLOCK + row
    wanted_sequence = sequence < batch
    model = tl.program_id(2).to(tl.int64)
    LAYERS: tl.constexpr = len(SIZES)
    SLOT_WIDTH: tl.constexpr = SLOTS * WIDTH
    LAST_SIZE: tl.constexpr = SIZES[LAYERS - 1]
    iterations = steps + LAYERS - 1
    weight += model * FLOATS
    # From the tile's first sequence on, for all of them together may need 64 bits.
    grad_top += (model * batch + tl.program_id(1) * BATCH_BLOCK) * steps * LAST_SIZE
    grad_h += model * batch * WIDTH
    grad_c += model * batch * WIDTH
    hidden += (model * (iterations + 1) + iterations) * batch * WIDTH
    memory += (model * (iterations + 1) + iterations) * batch * WIDTH
    slots += (model + 1) * iterations * batch * SLOT_WIDTH
    grad_slots += (model + 1) * iterations * batch * SLOT_WIDTH

    arrived += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * COUNTER_STRIDE
    for back in range(iterations):
        s = iterations - 1 - back
        hidden -= batch * WIDTH
        memory -= batch * WIDTH
        slots -= batch * SLOT_WIDTH
        grad_slots -= batch * SLOT_WIDTH
        for index in range(part, blocks, PARTS):
            entry = table + index * TABLE_COLUMNS
            layer = tl.load(entry)
            t = s - layer
            if (t >= 0) & (t < steps):
                # Whole multiples, so that loads take 16 bytes at a time.
                size = tl.multiple_of(tl.load(entry + 2), ALIGNMENT)
                below = tl.multiple_of(tl.load(entry + 3), ALIGNMENT)
                above = tl.multiple_of(tl.load(entry + 4), ALIGNMENT)
                first = tl.multiple_of(tl.load(entry + 5), ALIGNMENT)
                start = tl.multiple_of(tl.load(entry + 6), ALIGNMENT)
                above_start = tl.multiple_of(tl.load(entry + 7), ALIGNMENT)
                unit = tl.multiple_of(tl.load(entry + 1), ALIGNMENT) + tl.arange(0, UNIT_BLOCK)
                wanted = unit < size
                inside = wanted[:, None] & wanted_sequence[None, :]
                state = first + sequence[None, :] * WIDTH + unit[:, None]
                wanted_top = (above == 0) & (unit < LAST_SIZE)[:, None]
                top = (row[None, :] * steps + t) * LAST_SIZE + unit[:, None]
                dh = tl.load(grad_top + top, mask=inside & wanted_top, other=0)
                dh = _add_products(
                    dh,
                    weight + above_start,
                    grad_slots + batch * SLOT_WIDTH + SLOTS * (first + size),
                    unit,
                    wanted,
                    size,
                    above,
                    sequence,
                    wanted_sequence,
                    SLOT_WIDTH,
                    IH_SLOTS,
                    INPUT_BLOCK,
                )
                # The last step has no next one: its state's gradient is given.
                dh = _add_products(
                    dh,
                    weight + start + GATES * size * below,
                    grad_slots + batch * SLOT_WIDTH + SLOTS * first,
                    unit,
                    wanted,
                    size,
                    tl.multiple_of(tl.where(t + 1 < steps, size, 0), ALIGNMENT),
                    sequence,
                    wanted_sequence,
                    SLOT_WIDTH,
                    HH_SLOTS,
                    INPUT_BLOCK,
                )
                dh += tl.load(grad_h + state, mask=inside, other=0)
                h = tl.load(hidden + state, mask=inside, other=0)
                c, c_after, dc = h, h, h
                if ARCH == "lstm":
                    c = tl.load(memory + state, mask=inside, other=0)
                    c_after = tl.load(memory + batch * WIDTH + state, mask=inside, other=0)
                    dc = tl.load(grad_c + state, mask=inside, other=0)
                kept = ()
                place = sequence[None, :] * SLOT_WIDTH + SLOTS * first + unit[:, None]
                for slot in tl.static_range(SLOTS):
                    kept = kept + (tl.load(slots + place + slot * size, mask=inside, other=0),)
                grads, dh, dc = cell_backward(ARCH, kept, h, c, c_after, dh, dc)
                for slot in tl.static_range(SLOTS):
                    tl.store(grad_slots + place + slot * size, grads[slot], mask=inside)
                tl.store(grad_h + state, dh, mask=inside)
                if ARCH == "lstm":
                    tl.store(grad_c + state, dc, mask=inside)
        if PARTS > 1:
            group_barrier(arrived, failed, PARTS, POLLS)
        else:
            tl.debug_barrier()
