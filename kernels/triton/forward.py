"""The recurrence of a whole stack in one launch, forward, in skewed time.

Two mappings of one computation: :func:`resident_forward` for stacks whose weights fit a program's
registers, :func:`blocked_forward` for all others. ``layout`` describes the buffers.
"""

# Device code has no annotations, and its tuples grow.
# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

from surrogate.kernels.triton.barrier import group_barrier
from surrogate.kernels.triton.cells import cell

__all__ = ["blocked_forward", "load_matrices", "resident_forward"]


@triton.jit
def load_matrices(
    weight,
    SIZE: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUT_WIDTH: tl.constexpr,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A [SIZE, INPUTS] matrix of each gate out of [WIDTH, INPUT_WIDTH], padded to powers of two."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    matrices = ()
    for gate in tl.static_range(GATES):
        place = weight + (gate * WIDTH + row) * INPUT_WIDTH + column
        # Masks cost registers where there are none to spare.
        if ROWS == SIZE and COLUMNS == INPUTS:
            matrix = tl.load(place)
        else:
            matrix = tl.load(place, mask=(row < SIZE) & (column < INPUTS), other=0)
        matrices = matrices + (matrix,)
    return matrices


@triton.jit
def _multiply(matrices, vector, GATES: tl.constexpr):
    """The product of each gate's matrix with one vector."""
    products = ()
    for gate in tl.static_range(GATES):
        products = products + (tl.sum(matrices[gate] * vector[None, :], 1),)
    return products


@triton.jit(do_not_specialize=["batch", "steps"])
def resident_forward(
    projected,  # [models, steps, batch, gates * first size]
    weight,  # [models, FLOATS], StackLayout.pack_weights
    bias,  # [models, slots * width]
    hidden,  # [models, steps + layers, batch, width]; rows 0 to l of layer l are given
    memory,  # as hidden; read and written by the LSTM alone
    slots,  # [models, steps + layers - 1, batch, slots * width]
    batch,
    steps,
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    FLOATS: tl.constexpr,
    SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    KEEP: tl.constexpr,
):
    """One program runs one sequence through one model, with all weights and states in registers."""
    sequence = tl.program_id(0)
    model = tl.program_id(1).to(tl.int64)
    LAYERS: tl.constexpr = len(SIZES)
    iterations = steps + LAYERS - 1
    projected += (model * steps * batch + sequence) * (GATES * WIDTHS[0])
    weight += model * FLOATS
    bias += model * (SLOTS * WIDTH)
    hidden += (model * (iterations + 1) * batch + sequence) * WIDTH
    memory += (model * (iterations + 1) * batch + sequence) * WIDTH
    slots += (model * iterations * batch + sequence) * (SLOTS * WIDTH)

    from_below, own, biases, h, c = (), (), (), (), ()
    first = 0
    for layer in tl.static_range(LAYERS):
        if layer == 0:
            from_below = from_below + (0,)
        else:
            from_below = from_below + (
                load_matrices(
                    weight,
                    SIZES[layer],
                    SIZES[layer - 1],
                    WIDTHS[layer],
                    WIDTHS[layer - 1],
                    GATES,
                    BLOCKS[layer],
                    BLOCKS[layer - 1],
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
        of_layer = ()
        for slot in tl.static_range(SLOTS):
            place = SLOTS * first + slot * WIDTHS[layer] + unit
            of_layer = of_layer + (tl.load(bias + place, mask=wanted, other=0),)
        biases = biases + (of_layer,)
        h = h + (tl.load(hidden + first + unit, mask=wanted, other=0),)
        if ARCH == "lstm":
            c = c + (tl.load(memory + first + unit, mask=wanted, other=0),)
        else:
            c = c + (h[layer],)
        first += WIDTHS[layer]

    for s in tl.range(0, iterations, num_stages=2):
        hidden += batch * WIDTH
        memory += batch * WIDTH
        new_h, new_c = (), ()
        first = 0
        for layer in tl.static_range(LAYERS):
            unit = tl.arange(0, BLOCKS[layer])
            active = (s >= layer) & (s < steps + layer)
            wanted = (unit < SIZES[layer]) & active
            if layer == 0:
                from_input = ()
                for gate in tl.static_range(GATES):
                    place = gate * WIDTHS[0] + unit
                    from_input = from_input + (tl.load(projected + place, mask=wanted, other=0),)
            else:
                from_input = _multiply(from_below[layer], h[layer - 1], GATES)
            from_hidden = _multiply(own[layer], h[layer], GATES)
            kept, next_h, next_c = cell(
                ARCH, from_input, from_hidden, biases[layer], h[layer], c[layer]
            )
            tl.store(hidden + first + unit, next_h, mask=wanted)
            if ARCH == "lstm":
                tl.store(memory + first + unit, next_c, mask=wanted)
            if KEEP:
                for slot in tl.static_range(SLOTS):
                    place = SLOTS * first + slot * WIDTHS[layer] + unit
                    tl.store(slots + place, kept[slot], mask=wanted)
            new_h = new_h + (tl.where(active, next_h, h[layer]),)
            new_c = new_c + (tl.where(active, next_c, c[layer]),)
            first += WIDTHS[layer]
        h, c = new_h, new_c
        projected += batch * (GATES * WIDTHS[0])
        slots += batch * (SLOTS * WIDTH)


@triton.jit
def _add_products(
    totals,
    weight,  # [gates, size, inputs]
    vector,  # [sequences, inputs], with a stride between sequences
    unit,
    wanted,
    size,
    inputs,
    sequence,
    wanted_sequence,
    stride,
    GATES: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Add each gate's matrix times the vectors of a batch tile to [units, sequences] totals."""
    for first in range(0, inputs, INPUTS):
        column = first + tl.arange(0, INPUTS)
        inside = column < inputs
        # Another multiprocessor may have written it: only the cache they share is current.
        block = tl.load(
            vector + sequence[None, :] * stride + column[:, None],
            mask=inside[:, None] & wanted_sequence[None, :],
            other=0,
            cache_modifier=".cg",
        )
        new = ()
        for gate in tl.static_range(GATES):
            place = (gate * size + unit)[:, None] * inputs + column[None, :]
            matrix = tl.load(weight + place, mask=wanted[:, None] & inside[None, :], other=0)
            new = new + (
                tl.dot(
                    matrix,
                    block,
                    totals[gate],
                    input_precision="ieee",
                    out_dtype=totals[gate].dtype,
                ),
            )
        totals = new
    return totals


@triton.jit(do_not_specialize=["blocks", "batch", "steps"])
def blocked_forward(
    projected,  # [models, steps, batch, gates * first size]
    weight,  # [models, FLOATS], StackLayout.pack_weights
    bias,  # [models, slots * width]
    hidden,  # [models, steps + layers, batch, width]; rows 0 to l of layer l are given
    memory,  # as hidden; read and written by the LSTM alone
    slots,  # [models, steps + layers - 1, batch, slots * width]
    table,  # int32 [blocks, columns], StackLayout.table
    arrived,  # int32 [models, batch tiles, COUNTER_STRIDE], zeros; used if PARTS > 1
    failed,  # int32 [1], zero; see group_barrier
    blocks,
    batch,
    steps,
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    FLOATS: tl.constexpr,
    SIZES: tl.constexpr,
    WIDTHS: tl.constexpr,
    WIDTH: tl.constexpr,
    KEEP: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TABLE_COLUMNS: tl.constexpr,
    UNIT_BLOCK: tl.constexpr,
    INPUT_BLOCK: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    COUNTER_STRIDE: tl.constexpr,
    POLLS: tl.constexpr,
):
    """``PARTS`` programs run a batch tile through one model; weights come from the caches."""
    part = tl.program_id(0)
    sequence = tl.program_id(1) * BATCH_BLOCK + tl.arange(0, BATCH_BLOCK)
    wanted_sequence = sequence < batch
    model = tl.program_id(2).to(tl.int64)
    LAYERS: tl.constexpr = len(SIZES)
    FIRST_ROWS: tl.constexpr = GATES * WIDTHS[0]
    SLOT_WIDTH: tl.constexpr = SLOTS * WIDTH
    iterations = steps + LAYERS - 1
    projected += model * steps * batch * FIRST_ROWS
    weight += model * FLOATS
    bias += model * SLOT_WIDTH
    hidden += model * (iterations + 1) * batch * WIDTH
    memory += model * (iterations + 1) * batch * WIDTH
    slots += model * iterations * batch * SLOT_WIDTH

    arrived += (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * COUNTER_STRIDE
    for s in range(iterations):
        for index in range(part, blocks, PARTS):
            entry = table + index * TABLE_COLUMNS
            layer = tl.load(entry)
            if (s >= layer) & (s < steps + layer):
                # Whole multiples, so that loads take 16 bytes at a time.
                size = tl.multiple_of(tl.load(entry + 2), ALIGNMENT)
                below = tl.multiple_of(tl.load(entry + 3), ALIGNMENT)
                first = tl.multiple_of(tl.load(entry + 5), ALIGNMENT)
                start = tl.multiple_of(tl.load(entry + 6), ALIGNMENT)
                unit = tl.multiple_of(tl.load(entry + 1), ALIGNMENT) + tl.arange(0, UNIT_BLOCK)
                wanted = unit < size
                inside = wanted[:, None] & wanted_sequence[None, :]
                biases, from_input, from_hidden = (), (), ()
                for slot in tl.static_range(SLOTS):
                    place = SLOTS * first + slot * size + unit
                    biases = biases + (tl.load(bias + place, mask=wanted, other=0)[:, None],)
                for gate in tl.static_range(GATES):
                    place = sequence[None, :] * FIRST_ROWS + gate * size + unit[:, None]
                    from_input = from_input + (
                        tl.load(
                            projected + place,
                            mask=inside & (layer == 0),
                            other=0,
                        ),
                    )
                    from_hidden = from_hidden + (tl.zeros_like(from_input[gate]),)
                from_input = _add_products(
                    from_input,
                    weight + start,
                    hidden + first - below,
                    unit,
                    wanted,
                    size,
                    below,
                    sequence,
                    wanted_sequence,
                    WIDTH,
                    GATES,
                    INPUT_BLOCK,
                )
                from_hidden = _add_products(
                    from_hidden,
                    weight + start + GATES * size * below,
                    hidden + first,
                    unit,
                    wanted,
                    size,
                    size,
                    sequence,
                    wanted_sequence,
                    WIDTH,
                    GATES,
                    INPUT_BLOCK,
                )
                state = first + sequence[None, :] * WIDTH + unit[:, None]
                h = tl.load(hidden + state, mask=inside, other=0)
                c = h
                if ARCH == "lstm":
                    c = tl.load(memory + state, mask=inside, other=0)
                kept, h, c = cell(ARCH, from_input, from_hidden, biases, h, c)
                tl.store(hidden + batch * WIDTH + state, h, mask=inside)
                if ARCH == "lstm":
                    tl.store(memory + batch * WIDTH + state, c, mask=inside)
                if KEEP:
                    place = sequence[None, :] * SLOT_WIDTH + SLOTS * first + unit[:, None]
                    for slot in tl.static_range(SLOTS):
                        tl.store(slots + place + slot * size, kept[slot], mask=inside)
        if PARTS > 1:
            group_barrier(arrived, failed, PARTS, POLLS)
        else:
            tl.debug_barrier()
        projected += batch * FIRST_ROWS
        hidden += batch * WIDTH
        memory += batch * WIDTH
        slots += batch * SLOT_WIDTH
