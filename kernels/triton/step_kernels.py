"""Triton kernels that advance a whole stack by one bin.

A program holds a tile of neurons and computes the layers one after another; for few neurons and
wide layers, ``SPLIT`` programs share a tile and divide its units. Every array keeps the neuron as
its first axis, so rows of state and of transposed weights are read as they lie.

``LAYERS`` is a tuple with a tuple for each recurrent layer: its size, the offset of its h in a row
of the state, its block of units, its block as an inner dimension, its size rounded up to blocks of
units, and the offsets of its input weights, hidden weights and biases among the packed weights.
"""

# Triton has neither annotations nor unpacking of tuples into others.
# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

from surrogate.kernels.triton.barrier import group_barrier
from surrogate.kernels.triton.cells import cell

__all__ = ["collect_events_kernel", "step_kernel"]


@triton.jit
def _zeros(like, COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros([ROWS, COLUMNS], dtype=like.dtype.element_ty),)
    return sums


@triton.jit
def _add_events(
    sums,  # a tuple of [N, U] by gate
    channel,  # int16, where the events of a tile may lie
    begin,  # [N], each neuron's first event
    end,  # [N], and the one after its last
    weight,  # [U], at the units of channel 0 and gate 0
    GATES: tl.constexpr,
    WIDTH: tl.constexpr,
    EVENTS: tl.constexpr,
):
    """Add the rows ``weight[channel, gate]`` of every neuron's active channels."""
    for first in range(0, tl.max(end - begin, 0), EVENTS):
        event = begin[:, None] + first + tl.arange(0, EVENTS)[None, :]
        active = event < end[:, None]
        row = tl.load(channel + event, mask=active, other=0).to(tl.int32) * (GATES * WIDTH)
        place = weight[None, None, :] + row[:, :, None]
        new = ()
        for gate in tl.static_range(GATES):
            rows = tl.load(place + gate * WIDTH, mask=active[:, :, None], other=0)
            new = new + (sums[gate] + tl.sum(rows, 1),)
        sums = new
    return sums


@triton.jit
def _add_product(
    sums,  # a tuple of [N, U] by gate
    x,  # [N, ROW], at the first of SIZE elements
    weight,  # [U], at the units of row 0 and gate 0
    left,  # neurons from the tile's first on
    ROW: tl.constexpr,
    SIZE: tl.constexpr,
    INNER: tl.constexpr,
    GATES: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Add ``sum_k x[neuron, k] weight[k, gate]``."""
    if NEURONS == 1:
        # A product with one row keeps no thread busy: take k to rows, and sum over them at the end.
        parts = _zeros(x, GATES, INNER, UNITS)
        for start in range(0, SIZE, INNER):
            k = start + tl.arange(0, INNER)
            value = tl.load(x + k, mask=k < SIZE, other=0)[:, None]
            place = weight[None, :] + k[:, None] * (GATES * WIDTH)
            new = ()
            for gate in tl.static_range(GATES):
                new = new + (parts[gate] + value * tl.load(place + gate * WIDTH),)
            parts = new
        new = ()
        for gate in tl.static_range(GATES):
            new = new + (sums[gate] + tl.sum(parts[gate], 0)[None, :],)
        sums = new
    else:
        neuron = tl.arange(0, NEURONS)[:, None]
        for start in range(0, SIZE, INNER):
            k = start + tl.arange(0, INNER)
            wanted = (neuron < left) & (k < SIZE)[None, :]
            value = tl.load(x + neuron * ROW + k[None, :], mask=wanted, other=0)
            place = weight[None, :] + k[:, None] * (GATES * WIDTH)
            new = ()
            for gate in tl.static_range(GATES):
                matrix = tl.load(place + gate * WIDTH)
                new = new + (
                    tl.dot(
                        value,
                        matrix,
                        sums[gate],
                        input_precision="ieee",
                        out_dtype=value.dtype,
                    ),
                )
            sums = new
    return sums


@triton.jit
def _write_outputs(outputs, neuron, unit, values, wanted, failed, SPLIT: tl.constexpr):
    """Write to [neurons, 2]; NaN if programs waited for each other in vain."""
    if SPLIT > 1:
        values = tl.where(tl.load(failed, volatile=True) != 0, float("nan"), values)
    tl.store(outputs + neuron * 2 + unit[None, :], values, mask=wanted)


@triton.jit
def _advance_layer(
    LAYERS: tl.constexpr,
    L: tl.constexpr,
    state,
    fresh,
    outputs,
    weights,
    channel,
    begin,
    end,
    left,
    arrived,
    failed,
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    ROW: tl.constexpr,
    IS_OUTPUT: tl.constexpr,
    NEURONS: tl.constexpr,
    EVENTS: tl.constexpr,
    SPLIT: tl.constexpr,
    POLLS: tl.constexpr,
):
    """Advance layer ``L`` and leave its new h where the next layer reads it.

    A layer of several blocks of units cannot overwrite h at once, other blocks still read the old
    one: it writes to ``fresh``, and copies when all are done.
    """
    SIZE: tl.constexpr = LAYERS[L][0]
    AT: tl.constexpr = LAYERS[L][1]
    UNITS: tl.constexpr = LAYERS[L][2]
    INNER: tl.constexpr = LAYERS[L][3]
    WIDTH: tl.constexpr = LAYERS[L][4]
    IN_PLACE: tl.constexpr = WIDTH == UNITS

    neuron = tl.arange(0, NEURONS)[:, None]
    part = tl.program_id(1)
    for start in range(part * UNITS, WIDTH, SPLIT * UNITS):
        unit = start + tl.arange(0, UNITS)
        wanted = (neuron < left) & (unit < SIZE)[None, :]
        place = neuron * ROW + AT + unit[None, :]
        biases = ()
        for slot in tl.static_range(SLOTS):
            biases = biases + (tl.load(weights + LAYERS[L][7] + slot * WIDTH + unit)[None, :],)
        from_input = _zeros(state, GATES, NEURONS, UNITS)
        nothing = from_input
        if L == 0:
            from_input = _add_events(
                from_input, channel, begin, end, weights + LAYERS[0][5] + unit, GATES, WIDTH, EVENTS
            )
        else:
            BELOW_IN_PLACE: tl.constexpr = LAYERS[L - 1][4] == LAYERS[L - 1][2]
            from_input = _add_product(
                from_input,
                (state if BELOW_IN_PLACE else fresh) + LAYERS[L - 1][1],
                weights + LAYERS[L][5] + unit,
                left,
                ROW,
                LAYERS[L - 1][0],
                LAYERS[L - 1][3],
                GATES,
                WIDTH,
                NEURONS,
                UNITS,
            )
        # Only the GRU's candidate asks which part came from where; one sum takes fewer registers.
        from_hidden = _add_product(
            nothing if ARCH == "gru" else from_input,
            state + AT,
            weights + LAYERS[L][6] + unit,
            left,
            ROW,
            SIZE,
            INNER,
            GATES,
            WIDTH,
            NEURONS,
            UNITS,
        )
        h = tl.load(state + place, mask=wanted, other=0)
        c = h
        if ARCH == "lstm":
            c = tl.load(state + place + SIZE, mask=wanted, other=0)
        from_input = from_input if ARCH == "gru" else nothing
        _, h, c = cell(ARCH, from_input, from_hidden, biases, h, c)
        # Small tiles have copies in several threads: all must have read what is overwritten here.
        tl.debug_barrier()
        if ARCH == "lstm":
            tl.store(state + place + SIZE, c, mask=wanted)
        tl.store((state if IN_PLACE else fresh) + place, h, mask=wanted)
        if IS_OUTPUT:
            _write_outputs(outputs, neuron, unit, h, wanted, failed, SPLIT)

    if not (IS_OUTPUT and IN_PLACE):
        if SPLIT == 1:
            tl.debug_barrier()
        else:
            group_barrier(arrived, failed, SPLIT, POLLS)
    if not IN_PLACE:
        for start in range(part * UNITS, WIDTH, SPLIT * UNITS):
            unit = start + tl.arange(0, UNITS)
            wanted = (neuron < left) & (unit < SIZE)[None, :]
            place = neuron * ROW + AT + unit[None, :]
            tl.store(state + place, tl.load(fresh + place, mask=wanted), mask=wanted)


@triton.jit(do_not_specialize=["neurons"])
def step_kernel(
    channel,  # int16; neuron n's active channels lie from begin[n] to before end[n]
    begin,  # int32 or int64 [neurons]
    end,
    weights,  # [packed] or [neurons, packed]
    state,  # [neurons, ROW], canonical; updated in place
    fresh,  # scratch of the state's shape, for layers of several blocks
    outputs,  # [neurons, 2]
    arrived,  # int32 [tiles, COUNTERS], used if SPLIT > 1
    failed,  # int32 [1], set where programs waited in vain
    neurons,
    LAYERS: tl.constexpr,
    HEAD: tl.constexpr,  # offsets of a linear head's weights and biases, or ()
    OWN_WEIGHTS: tl.constexpr,  # packed weights of each neuron, 0 if all share one set
    ARCH: tl.constexpr,
    GATES: tl.constexpr,
    SLOTS: tl.constexpr,
    ROW: tl.constexpr,
    NEURONS: tl.constexpr,
    EVENTS: tl.constexpr,
    SPLIT: tl.constexpr,
    COUNTERS: tl.constexpr,
    POLLS: tl.constexpr,
):
    """Advance every neuron by one bin; grid (tiles of ``NEURONS`` neurons, ``SPLIT``)."""
    # Offsets from a tile's first neuron fit 32 bits, however many neurons there are.
    first = tl.program_id(0).to(tl.int64) * NEURONS
    left = (neurons - first).to(tl.int32)
    neuron = tl.arange(0, NEURONS)
    begin = tl.load(begin + first + neuron, mask=neuron < left, other=0)
    end = tl.load(end + first + neuron, mask=neuron < left, other=0)
    state += first * ROW
    fresh += first * ROW
    outputs += first * 2
    weights += first * OWN_WEIGHTS
    arrived += tl.program_id(0) * COUNTERS
    LAST: tl.constexpr = len(LAYERS) - 1
    for layer in tl.static_range(len(LAYERS)):
        _advance_layer(
            LAYERS,
            layer,
            state,
            fresh,
            outputs,
            weights,
            channel,
            begin,
            end,
            left,
            arrived,
            failed,
            ARCH,
            GATES,
            SLOTS,
            ROW,
            layer == LAST and len(HEAD) == 0,
            NEURONS,
            EVENTS,
            SPLIT,
            POLLS,
        )
    if len(HEAD) > 0 and tl.program_id(1) == 0:
        unit = tl.arange(0, 2)
        IN_PLACE: tl.constexpr = LAYERS[LAST][4] == LAYERS[LAST][2]
        (readout,) = _add_product(
            _zeros(state, 1, NEURONS, 2),
            (state if IN_PLACE else fresh) + LAYERS[LAST][1],
            weights + HEAD[0] + unit,
            left,
            ROW,
            LAYERS[LAST][0],
            LAYERS[LAST][3],
            1,
            2,
            NEURONS,
            2,
        )
        readout += tl.load(weights + HEAD[1] + unit)[None, :]
        # A name of its own: in a branch that is taken at run time none may change its shape.
        row = neuron[:, None]
        _write_outputs(outputs, row, unit, readout, row < left, failed, SPLIT)


@triton.jit
def collect_events_kernel(
    counts,  # int32 [neurons, INPUTS], spikes of each channel in the bin; zeroed
    lost,  # int64 [neurons], grows by the spikes beyond the first of each channel
    channel,  # int16; neuron n's list goes from begin[n] to before end[n]
    begin,  # int64 [neurons]
    end,  # int64 [neurons], written
    INPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """List each neuron's channels with a spike or more; one program per neuron."""
    neuron = tl.program_id(0).to(tl.int64)
    start = tl.load(begin + neuron)
    found = 0
    beyond = tl.load(lost + neuron)
    for first in range(0, INPUTS, BLOCK):
        number = first + tl.arange(0, BLOCK)
        place = counts + neuron * INPUTS + number
        count = tl.load(place, mask=number < INPUTS, other=0)
        active = (count > 0).to(tl.int32)
        rank = tl.cumsum(active, 0) - 1
        # Small tiles have copies in several threads: all must have read what is overwritten here.
        tl.debug_barrier()
        tl.store(channel + start + found + rank, number.to(tl.int16), mask=count > 0)
        tl.store(place, tl.zeros_like(count), mask=count != 0)
        found += tl.sum(active, 0)
        beyond += tl.sum((active * (count - 1)).to(tl.int64), 0)
    tl.store(end + neuron, start + found)
    tl.store(lost + neuron, beyond)
