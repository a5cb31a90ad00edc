"""The division of a step's work into programs, chosen by a cost model, not by tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton.chips import (
    BARRIER_SECONDS,
    CACHE_SECONDS,
    CHIPS,
    LAUNCH_SECONDS,
    SYNC_SECONDS,
    Chip,
)

__all__ = [
    "EVENTS_PER_BIN",
    "StepPlan",
    "dot_share",
    "plan_step",
    "step_candidates",
    "step_seconds",
]

#: Input spikes of one neuron in 1 ms of the L5PC data, the mean.
EVENTS_PER_BIN = 14


@dataclass(frozen=True)
class StepPlan:
    """How the programs of a step share neurons and units. Counts are powers of two.

    Attributes
    ----------
    neurons : int
        Neurons of one program: 1, then every product is a sum over threads; or at least 16.
    units : int
        Units of a layer that a program computes at once.
    inner : int
        Elements of an inner product taken at once, at least 16.
    events : int
        Active channels of a neuron that are summed at once.
    split : int
        Programs that share the units of a tile of neurons and synchronise after every layer.
    warps : int
        Of 32 threads, per program.
    """

    neurons: int
    units: int
    inner: int
    events: int
    split: int
    warps: int

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count < 1 or count & (count - 1):
                raise ValueError(f"{name}={count}: expected a power of two")

    def units_of(self, size: int) -> int:
        """Units that a program computes at once in a layer of ``size``."""
        return min(self.units, _power_of_two(size))

    def inner_of(self, size: int) -> int:
        """Elements taken at once of an inner product over ``size``."""
        return min(self.inner, max(16, _power_of_two(size)))


def step_candidates(
    spec: StackSpec, neurons: int, chip: Chip, own_weights: bool = False
) -> Iterator[StepPlan]:
    """The candidate plans: programs that synchronise must fit on the GPU at once.

    Blocks are the largest that the compile table found free of spills.
    """
    widest, one_gate = max(spec.recurrent_sizes), spec.gates == 1
    tiles = [StepPlan(1, 32, 64, 16, 1, 4)]
    if not own_weights:
        tiles += [
            StepPlan(16, 32, 16, 8 if one_gate else 4, 1, 4),
            StepPlan(32, 32, 16, 2, 1, 8),
            StepPlan(64, 64, 16, 1, 1, 8)
            if one_gate and widest > 32
            else StepPlan(64, 32, 16, 2, 1, 8),
        ]
    for plan in tiles:
        yield plan
        split, units = 2, 16 if plan.neurons == 1 else plan.units
        while (
            split <= -(-widest // units)
            and -(-neurons // plan.neurons) * split <= chip.processors
            and not own_weights
        ):
            yield StepPlan(plan.neurons, units, plan.inner, plan.events, split, plan.warps)
            split *= 2


def plan_step(
    spec: StackSpec, neurons: int, chip: Chip = CHIPS["H200"], own_weights: bool = False
) -> StepPlan:
    """The candidate with the lowest predicted time.

    Parameters
    ----------
    spec : StackSpec
    neurons : int
        Number of neurons N.
    chip : Chip
    own_weights : bool
        Each neuron has its own weights.
    """
    return min(
        step_candidates(spec, neurons, chip, own_weights),
        key=lambda plan: step_seconds(spec, neurons, plan, chip, own_weights),
    )


def step_seconds(
    spec: StackSpec, neurons: int, plan: StepPlan, chip: Chip, own_weights: bool = False
) -> float:
    """Predicted time of one step, launch included.

    The largest of: one program's arithmetic, and its reading of weights, on one multiprocessor;
    all programs' arithmetic, their reading of weights from the L2 cache, and the unavoidable
    traffic with memory, each at the whole GPU's rate. Plus the delays that nothing overlaps: the
    barrier after each layer, and the loads that wait for a list of events.
    """
    tiles = -(-neurons // plan.neurons)
    of_one, of_tile, inputs = 0.0, 0.0, 0
    for size in spec.recurrent_sizes:
        units, inner = plan.units_of(size), plan.inner_of(size)
        blocks, hidden = -(-size // units), -(-size // inner) * inner
        weights = spec.gates * units * (inputs + hidden)  # of one block of units
        of_one += -(-blocks // plan.split) * weights
        of_tile += blocks * weights
        inputs = hidden
    # The first layer adds a row of weights per event and neuron. Rows repeat: the cache has them.
    rows = spec.gates * spec.recurrent_sizes[0] * EVENTS_PER_BIN * plan.neurons

    results = plan.neurons * plan.units_of(max(spec.recurrent_sizes)) / (32 * plan.warps)
    # Without a matrix product the numbers come from registers.
    share = 0.5 if plan.neurons == 1 else dot_share(results)
    dot_rate = share * chip.flops_per_second
    arithmetic_of_one = 2 * (of_one * plan.neurons + rows / plan.split)
    state_bytes = neurons * (8 * spec.state_size + 8 + 2 * EVENTS_PER_BIN)
    own_bytes = 4 * tiles * (of_tile + rows) if own_weights else 0
    work = max(
        arithmetic_of_one / (dot_rate / chip.processors),
        4 * (of_one + rows / plan.split) / chip.cache_bytes_per_second_of_one,
        2 * tiles * (of_tile * plan.neurons + rows) / dot_rate,
        4 * tiles * (of_tile + rows) / chip.cache_bytes_per_second,
        (state_bytes + own_bytes) / chip.memory_bytes_per_second,
    )
    layers = len(spec.recurrent_sizes)
    meetings = layers * (BARRIER_SECONDS if plan.split > 1 else SYNC_SECONDS)
    # The busiest neuron of a tile has about half as many events again as the mean.
    lists = -(-EVENTS_PER_BIN * 3 // (2 * plan.events)) * CACHE_SECONDS
    return LAUNCH_SECONDS + work + meetings + lists


def dot_share(results: float) -> float:
    """The share of the arithmetic rate that float32 products of blocks reach.

    A thread that holds a x a = ``results`` of them reads 2 a numbers from shared memory for a^2
    multiply-adds; a multiprocessor does four multiply-adds in the time of one read. The share is
    at most half.
    """
    return float(min(0.5, results**0.5 / 8))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
