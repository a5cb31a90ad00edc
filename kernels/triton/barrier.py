"""A barrier among programs of one launch, bounded: it fails with a flag, never hangs."""

# Triton has no annotations.
# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["COUNTER_STRIDE", "MAX_POLLS", "group_barrier"]

#: Distance of the int32 counters of different groups: a cache line.
COUNTER_STRIDE = tl.constexpr(32)

#: Polls before a program gives up. One takes about a microsecond, so this is about a second, a
#: thousand times what the slowest step needs.
MAX_POLLS = 1 << 20


@triton.jit
def group_barrier(arrived_ptr, failed_ptr, MEMBERS: tl.constexpr, POLLS: tl.constexpr):
    """Wait until all ``MEMBERS`` programs of a group have arrived.

    Writes to global memory by any of them before are visible to all of them afterwards. All must
    run at once: launch cooperatively, at most one program per multiprocessor.

    Parameters
    ----------
    arrived_ptr : pointer to int32
        The group's counter. Never reset: it continues from launch to launch, and wraps around.
    failed_ptr : pointer to int32
        Becomes 1 when a member did not arrive within ``POLLS`` polls. While it is 1 programs poll
        at most 16 times, so a launch with a missing program ends after one waiting time.
    MEMBERS : power of two, so that the wrap-around keeps the groups of arrivals apart
    POLLS : int
    """
    # One thread does the atomic on a scalar: the other threads' writes must come before it.
    tl.debug_barrier()
    ticket = tl.atomic_add(arrived_ptr, 1, sem="acq_rel")
    complete = (ticket & -MEMBERS) + MEMBERS
    missing = complete - ticket - 1
    polls = 0
    while (missing > 0) & (polls < POLLS):
        missing = complete - tl.atomic_add(arrived_ptr, 0, sem="acquire")
        polls += 1
        if polls % 16 == 0:
            polls += POLLS * tl.atomic_or(failed_ptr, 0, sem="relaxed")
    if missing > 0:
        tl.atomic_or(failed_ptr, 1, sem="relaxed")
    tl.debug_barrier()
