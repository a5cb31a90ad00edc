"""Predicted times of the kernels on GPUs on which they have not been measured.

A prediction adds arithmetic, traffic and the delays that nothing overlaps, with the data of
:mod:`surrogate.kernels.triton.chips`, of which the delays are assumptions. It gives orders of
magnitude and ranks plans; where it is printed, it is marked as predicted.
"""

from __future__ import annotations

from itertools import pairwise

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.chips import (
    BARRIER_SECONDS,
    CHIPS,
    LAUNCH_SECONDS,
    SYNC_SECONDS,
    Chip,
)
from surrogate.kernels.triton.step.plan import EVENTS_PER_BIN, dot_share, plan_step, step_seconds
from surrogate.kernels.triton.training.layout import StackLayout, Tiling, choose_tiling

__all__ = ["predict", "sequence_seconds"]

#: Launches of a pass over a batch beside the recurrence: packing, projection, products. Assumed.
_OTHER_LAUNCHES = 15
#: Share of the arithmetic rate that a large float32 matrix product reaches. Assumed.
_MATMUL_SHARE = 0.7
#: Waits of one iteration of a resident program: load, reduction, activation. Assumed.
_RESIDENT_WAITS = 3


def predict(
    spec: StackSpec,
    mode: str,
    batch: int = 32,
    steps: int = 1000,
    neurons: int = 1,
    chip: str | Chip = "H200",
) -> float:
    """Seconds that one call is predicted to take.

    Parameters
    ----------
    spec : StackSpec
    mode : "train" | "evaluate" | "step"
        Forward and backward of a batch; forward alone; one bin of ``neurons`` neurons.
    batch, steps : int
        Sequences and their length in bins; without meaning for steps.
    neurons : int
        Without meaning for batches.
    chip : Chip, or a key of :data:`surrogate.kernels.triton.chips.CHIPS`

    Raises
    ------
    ValueError
        If mode or chip do not exist.
    """
    if isinstance(chip, str):
        if chip not in CHIPS:
            raise ValueError(f"unknown chip {chip!r}: expected one of {', '.join(CHIPS)}")
        chip = CHIPS[chip]
    if mode == "step":
        return step_seconds(spec, neurons, plan_step(spec, neurons, chip), chip)
    if mode not in ("train", "evaluate"):
        raise ValueError(f"unknown mode {mode!r}: expected train, evaluate or step")
    return sequence_seconds(spec, batch, steps, chip, backward=mode == "train")


def sequence_seconds(
    spec: StackSpec, batch: int, steps: int, chip: Chip, *, backward: bool, models: int = 1
) -> float:
    """Predicted time of a pass over ``batch`` sequences for each of ``models`` models.

    The recurrence, iteration after iteration; and what is done for all bins at once: the event
    projection, and in the backward pass the gradients of the weights.
    """
    layout = StackLayout(spec.arch, spec.recurrent_sizes)
    tiling = choose_tiling(layout, batch, models, chip.processors)
    sizes = spec.recurrent_sizes
    iterations = steps + len(sizes) - 1
    recurrence = iterations * _iteration_seconds(layout, tiling, batch * models, chip)

    rows = models * batch * steps
    dense = spec.gates * (sum(n * n for n in sizes) + sum(a * b for a, b in pairwise(sizes)))
    projection = 4 * rows * EVENTS_PER_BIN * spec.gates * sizes[0] / chip.cache_bytes_per_second
    # Written once and read once: the first layer's input; for backward h (and c) and the slots.
    kept = 2 + layout.memory + layout.slots if backward else 0
    traffic = 8 * rows * (spec.gates * sizes[0] + kept * sum(sizes)) / chip.memory_bytes_per_second
    launches = _OTHER_LAUNCHES * LAUNCH_SECONDS
    forward = recurrence + projection + traffic + launches
    if not backward:
        return forward
    products = 2 * rows * dense / (_MATMUL_SHARE * chip.flops_per_second)
    return 2 * forward + products


def _iteration_seconds(layout: StackLayout, tiling: Tiling, sequences: int, chip: Chip) -> float:
    """One iteration of all programs, in as many rounds as the multiprocessors need."""
    rate_of_one = chip.flops_per_second / chip.processors
    if tiling.resident:
        rounds = -(-sequences // chip.processors)
        work = 2 * layout.resident_floats / (0.5 * rate_of_one)
        return rounds * work + _RESIDENT_WAITS * SYNC_SECONDS
    tiles = -(-sequences // tiling.batch)
    rounds = -(-tiles * tiling.parts // chip.processors)
    inputs = (0, *layout.sizes)
    weights = sum(
        -(-size // tiling.units) * tiling.units * (below + size) * layout.gates
        for below, size in zip(inputs, layout.sizes, strict=False)
    )
    blocks = sum(-(-size // tiling.units) for size in layout.sizes)
    of_one = weights * -(-blocks // tiling.parts) / blocks
    share = dot_share(tiling.units * tiling.batch / (32 * tiling.warps))
    work = max(
        2 * of_one * tiling.batch / (share * rate_of_one),
        4 * of_one / chip.cache_bytes_per_second_of_one,
        4 * weights * tiles / rounds / chip.cache_bytes_per_second,
    )
    return rounds * work + (BARRIER_SECONDS if tiling.parts > 1 else SYNC_SECONDS)
