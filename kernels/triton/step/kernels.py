"""Triton kernels that advance a whole stack by one bin.

A program holds a tile of neurons and computes the layers one after another; for few neurons and
wide layers, ``PLAN.split`` programs share a tile and divide its units. Every array keeps the neuron
as its first axis, so rows of state and of transposed weights are contiguous.

``CELL`` is the forward function of a :class:`Cell`, ``STACK`` a :class:`PackedLayout`, ``PLAN`` the
:class:`StepPlan` it was made for.
"""

# Triton has neither annotations nor unpacking of tuples into others.
# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

from surrogate.kernels.triton.barrier import COUNTER_STRIDE, group_barrier

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
    weight,  # [U], at the units of channel 0 and gate 0
    channel,  # int16, where the events of a tile may lie
    begin,  # [N], each neuron's first event
    end,  # [N], and the one after its last
    WIDTH: tl.constexpr,
    EVENTS: tl.constexpr,
):
    """Add the rows ``weight[channel, gate]`` of every neuron's active channels."""
    GATES: tl.constexpr = len(sums)
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
    state,  # [N, ROW], that of the tile's first neuron
    weight,  # [U], at the units of row 0 and gate 0
    left,  # neurons from the tile's first on
    LAYER: tl.constexpr,  # the layer whose h is multiplied
    ROW: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Add ``sum_k h[neuron, k] weight[k, gate]``."""
    GATES: tl.constexpr = len(sums)
    NEURONS: tl.constexpr = sums[0].shape[0]
    UNITS: tl.constexpr = sums[0].shape[1]
    x = state + LAYER.state
    if NEURONS == 1:
        # A product with one row uses few threads: divide k into rows, and sum over them at the end.
        parts = _zeros(x, GATES, LAYER.inner, UNITS)
        for start in range(0, LAYER.size, LAYER.inner):
            k = start + tl.arange(0, LAYER.inner)
            value = tl.load(x + k, mask=k < LAYER.size, other=0)[:, None]
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
        for start in range(0, LAYER.size, LAYER.inner):
            k = start + tl.arange(0, LAYER.inner)
            wanted = (neuron < left) & (k < LAYER.size)[None, :]
            value = tl.load(x + neuron * ROW + k[None, :], mask=wanted, other=0)
            place = weight[None, :] + k[:, None] * (GATES * WIDTH)
            new = ()
            for gate in tl.static_range(GATES):
                matrix = tl.load(place + gate * WIDTH)
                total = sums[gate]
                total = tl.dot(value, matrix, total, input_precision="ieee", out_dtype=value.dtype)
                new = new + (total,)
            sums = new
    return sums


@triton.jit
def _write_outputs(outputs, neuron, unit, values, wanted, failed, SPLIT: tl.constexpr):
    """Write to [neurons, 2]; NaN if a barrier between programs failed."""
    if SPLIT > 1:
        values = tl.where(tl.load(failed, volatile=True) != 0, float("nan"), values)
    tl.store(outputs + neuron * 2 + unit[None, :], values, mask=wanted)


@triton.jit
def _advance_layer(
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
    L: tl.constexpr,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
    PLAN: tl.constexpr,
    POLLS: tl.constexpr,
):
    """Advance layer ``L`` and write its new h to where the next layer reads it.

    A layer of several blocks of units cannot overwrite h at once, because other blocks still read
    the old one: it writes to ``fresh``, and copies when all blocks are done.
    """
    LAYER: tl.constexpr = STACK.layers[L]
    IS_OUTPUT: tl.constexpr = len(STACK.layers) - 1 == L and len(STACK.head) == 0
    GATES: tl.constexpr = STACK.gates
    WIDTH: tl.constexpr = LAYER.width
    SPLIT: tl.constexpr = PLAN.split
    SLOTS: tl.constexpr = STACK.slots

    neuron = tl.arange(0, PLAN.neurons)[:, None]
    part = tl.program_id(1)
    for start in range(part * LAYER.units, WIDTH, SPLIT * LAYER.units):
        unit = start + tl.arange(0, LAYER.units)
        wanted = (neuron < left) & (unit < LAYER.size)[None, :]
        place = neuron * STACK.row + LAYER.state + unit[None, :]
        biases = ()
        for slot in tl.static_range(SLOTS):
            biases = biases + (tl.load(weights + LAYER.bias + slot * WIDTH + unit)[None, :],)
        from_input = _zeros(state, GATES, PLAN.neurons, LAYER.units)
        nothing = from_input
        w_in = weights + LAYER.w_in + unit
        if L == 0:
            from_input = _add_events(from_input, w_in, channel, begin, end, WIDTH, PLAN.events)
        else:
            BELOW: tl.constexpr = STACK.layers[L - 1]
            h_below = state if BELOW.in_place else fresh
            from_input = _add_product(from_input, h_below, w_in, left, BELOW, STACK.row, WIDTH)
        # One sum of both takes fewer registers, if the cell does not need them separately.
        from_hidden = _add_product(
            nothing if STACK.apart else from_input,
            state,
            weights + LAYER.w_hidden + unit,
            left,
            LAYER,
            STACK.row,
            WIDTH,
        )
        from_input = from_input if STACK.apart else nothing
        h = tl.load(state + place, mask=wanted, other=0)
        c = h
        if STACK.memory:
            c = tl.load(state + place + LAYER.size, mask=wanted, other=0)
        _, h, c = CELL(from_input, from_hidden, biases, h, c)
        # Small tiles have copies in several threads: all must have read what is overwritten here.
        tl.debug_barrier()
        if STACK.memory:
            tl.store(state + place + LAYER.size, c, mask=wanted)
        tl.store((state if LAYER.in_place else fresh) + place, h, mask=wanted)
        if IS_OUTPUT:
            _write_outputs(outputs, neuron, unit, h, wanted, failed, SPLIT)

    if not (IS_OUTPUT and LAYER.in_place):
        if SPLIT == 1:
            tl.debug_barrier()
        else:
            group_barrier(arrived, failed, SPLIT, POLLS)
    if not LAYER.in_place:
        for start in range(part * LAYER.units, WIDTH, SPLIT * LAYER.units):
            unit = start + tl.arange(0, LAYER.units)
            wanted = (neuron < left) & (unit < LAYER.size)[None, :]
            place = neuron * STACK.row + LAYER.state + unit[None, :]
            tl.store(state + place, tl.load(fresh + place, mask=wanted), mask=wanted)


@triton.jit(do_not_specialize=["neurons"])
def step_kernel(
    channel,  # int16; neuron n's active channels lie from begin[n] to before end[n]
    begin,  # int32 or int64 [neurons]
    end,
    weights,  # [packed] or [neurons, packed]
    state,  # [neurons, STACK.row], canonical; updated in place
    fresh,  # scratch of the state's shape, for layers of several blocks
    outputs,  # [neurons, 2]
    arrived,  # int32 [tiles, COUNTER_STRIDE], used if programs share a tile
    failed,  # int32 [1], set where a barrier failed
    neurons,
    CELL: tl.constexpr,
    STACK: tl.constexpr,
    PLAN: tl.constexpr,
    OWN_WEIGHTS: tl.constexpr,  # whether each neuron has its own
    POLLS: tl.constexpr,
):
    """Advance every neuron by one bin; grid (tiles of ``PLAN.neurons`` neurons, ``PLAN.split``)."""
    # Offsets from a tile's first neuron fit 32 bits, however many neurons there are.
    first = tl.program_id(0).to(tl.int64) * PLAN.neurons
    left = (neurons - first).to(tl.int32)
    neuron = tl.arange(0, PLAN.neurons)
    begin = tl.load(begin + first + neuron, mask=neuron < left, other=0)
    end = tl.load(end + first + neuron, mask=neuron < left, other=0)
    state += first * STACK.row
    fresh += first * STACK.row
    outputs += first * 2
    if OWN_WEIGHTS:
        weights += first * STACK.size
    arrived += tl.program_id(0) * COUNTER_STRIDE
    for layer in tl.static_range(len(STACK.layers)):
        _advance_layer(
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
            layer,
            CELL,
            STACK,
            PLAN,
            POLLS,
        )
    if len(STACK.head) > 0 and tl.program_id(1) == 0:
        LAST: tl.constexpr = STACK.layers[len(STACK.layers) - 1]
        unit = tl.arange(0, 2)
        (readout,) = _add_product(
            _zeros(state, 1, PLAN.neurons, 2),
            state if LAST.in_place else fresh,
            weights + STACK.head[0] + unit,
            left,
            LAST,
            STACK.row,
            2,
        )
        readout += tl.load(weights + STACK.head[1] + unit)[None, :]
        # A new name, because no name may change its shape in a branch taken at run time.
        row = neuron[:, None]
        _write_outputs(outputs, row, unit, readout, row < left, failed, PLAN.split)


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
