"""``W_ih x`` of the first layer for 0/1 inputs given as events, and the gradient of ``W_ih``.

Forward gathers the rows of the transposed weights that belong to a bin's active channels (CSR) and
sums them. Backward goes through each channel's bins (CSC) and sums the gates' gradients: one order,
no atomics, so that two runs agree bit for bit.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["gather_sum", "launch_options", "project_events", "segment_sum", "sum_by_channel"]

#: Events summed at once; a bin of the L5PC data holds about 14.
EVENTS_AT_ONCE = 16
MAX_COLUMN_BLOCK = 256


@triton.jit(do_not_specialize=["batch", "steps", "input_size"])
def gather_sum(
    weight,  # [models, input_size, columns]
    channel,  # int16 [events]
    row_ptr,  # int32 [event models * batch * steps + 1]
    out,  # [models, steps, batch, columns]
    batch,
    steps,
    input_size,
    COLUMNS: tl.constexpr,
    COLUMN_BLOCK: tl.constexpr,
    EVENT_BLOCK: tl.constexpr,
    PER_MODEL: tl.constexpr,
):
    """``out[m, t, b] = sum of weight[m, c] over the channels c active in bin t of sequence b``."""
    row = tl.program_id(0)
    model = tl.program_id(2).to(tl.int64)
    source = (row % batch) * steps + row // batch
    if PER_MODEL:
        source += tl.program_id(2) * batch * steps
    column = tl.program_id(1) * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
    wanted = column < COLUMNS
    weight += model * input_size * COLUMNS
    total = tl.zeros((COLUMN_BLOCK,), out.dtype.element_ty)
    stop = tl.load(row_ptr + source + 1)
    for first in range(tl.load(row_ptr + source), stop, EVENT_BLOCK):
        event = first + tl.arange(0, EVENT_BLOCK)
        active = tl.load(channel + event, mask=event < stop, other=0).to(tl.int32)
        inside = (event < stop)[:, None] & wanted[None, :]
        total += tl.sum(
            tl.load(weight + active[:, None] * COLUMNS + column[None, :], mask=inside, other=0), 0
        )
    place = (model * steps * batch + row) * COLUMNS
    tl.store(out + place + column, total, mask=wanted)


@triton.jit(do_not_specialize=["rows", "input_size"])
def segment_sum(
    grad,  # [models, rows of a model, width]
    row,  # int32 [events], sorted by (event model, channel)
    channel_ptr,  # int32 [event models * input_size + 1]
    out,  # [models, input_size, columns]
    rows,
    input_size,
    WIDTH: tl.constexpr,
    FIRST_COLUMN: tl.constexpr,
    COLUMNS: tl.constexpr,
    COLUMN_BLOCK: tl.constexpr,
    EVENT_BLOCK: tl.constexpr,
    PER_MODEL: tl.constexpr,
):
    """``out[m, c] = sum of grad[m, r, FIRST_COLUMN:] over the rows r in which c was active``."""
    channel = tl.program_id(0)
    model = tl.program_id(2).to(tl.int64)
    segment = channel
    if PER_MODEL:
        segment += tl.program_id(2) * input_size
    column = tl.program_id(1) * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
    wanted = column < COLUMNS
    grad += model * rows * WIDTH + FIRST_COLUMN
    total = tl.zeros((COLUMN_BLOCK,), out.dtype.element_ty)
    stop = tl.load(channel_ptr + segment + 1)
    for first in range(tl.load(channel_ptr + segment), stop, EVENT_BLOCK):
        event = first + tl.arange(0, EVENT_BLOCK)
        active = tl.load(row + event, mask=event < stop, other=0).to(tl.int64)
        inside = (event < stop)[:, None] & wanted[None, :]
        total += tl.sum(
            tl.load(grad + active[:, None] * WIDTH + column[None, :], mask=inside, other=0), 0
        )
    place = (model * input_size + channel) * COLUMNS
    tl.store(out + place + column, total, mask=wanted)


def launch_options(columns: int, per_model: bool) -> dict[str, Any]:
    """The compile-time arguments that both kernels share, and their warps."""
    block = min(MAX_COLUMN_BLOCK, triton.next_power_of_2(columns))
    return {
        "COLUMNS": columns,
        "COLUMN_BLOCK": block,
        "EVENT_BLOCK": EVENTS_AT_ONCE,
        "PER_MODEL": per_model,
        "num_warps": 2 if block > 128 else 1,
    }


def project_events(
    weight: Tensor, channel: Tensor, row_ptr: Tensor, batch: int, steps: int
) -> Tensor:
    """``W_ih x`` without bias, [models, steps, batch, columns].

    Parameters
    ----------
    weight : Tensor [models, columns, input_size]
    channel, row_ptr : Tensor
        Those of :class:`surrogate.kernels.SpikeEvents`, for ``batch`` sequences that all models
        share or for ``models * batch``, a model after the other.
    """
    models, columns, input_size = weight.shape
    out = weight.new_empty(models, steps, batch, columns)
    options = launch_options(columns, per_model=row_ptr.numel() - 1 > batch * steps)
    gather_sum[(steps * batch, triton.cdiv(columns, options["COLUMN_BLOCK"]), models)](
        weight.transpose(1, 2).contiguous(),
        channel,
        row_ptr,
        out,
        batch,
        steps,
        input_size,
        **options,
    )
    return out


def _by_channel(
    channel: Tensor, row_ptr: Tensor, batch: int, steps: int, input_size: int
) -> tuple[Tensor, Tensor]:
    """Each channel's rows ``t * batch + b`` and where they start, models one after the other."""
    device = channel.device
    sequence_rows = row_ptr.numel() - 1
    places = torch.repeat_interleave(
        torch.arange(sequence_rows, device=device),
        row_ptr.diff().long(),
        output_size=channel.numel(),
    )
    model, row = places // (batch * steps), places % (batch * steps)
    segment = model * input_size + channel
    order = torch.argsort(segment, stable=True)
    segments = sequence_rows // (batch * steps) * input_size
    starts = torch.searchsorted(segment[order], torch.arange(segments + 1, device=device))
    by_time = (row % steps) * batch + row // steps
    return by_time[order].int(), starts.int()


def sum_by_channel(
    grad: Tensor,
    columns: slice,
    channel: Tensor,
    row_ptr: Tensor,
    batch: int,
    steps: int,
    input_size: int,
) -> Tensor:
    """The gradient of ``weight`` in :func:`project_events`, [models, columns, input_size].

    Parameters
    ----------
    grad : Tensor [models, steps or more, batch, width], contiguous
        Only the first ``steps`` and, of the last axis, ``columns`` are read.
    """
    models, iterations, _, width = grad.shape
    count = columns.stop - columns.start
    rows, channel_ptr = _by_channel(channel, row_ptr, batch, steps, input_size)
    out = grad.new_empty(models, input_size, count)
    options = launch_options(count, per_model=row_ptr.numel() - 1 > batch * steps)
    segment_sum[(input_size, triton.cdiv(count, options["COLUMN_BLOCK"]), models)](
        grad,
        rows,
        channel_ptr,
        out,
        iterations * batch,
        input_size,
        WIDTH=width,
        FIRST_COLUMN=columns.start,
        **options,
    )
    return out.transpose(1, 2).contiguous()
