"""The least work that a case needs, and the least time it could take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from surrogate.benchmarks.measure import Peak
from surrogate.benchmarks.problems import Case

__all__ = ["Work", "floor_seconds", "work"]


@dataclass(frozen=True)
class Work:
    """Arithmetic and memory traffic of one call.

    Attributes
    ----------
    flops : float
        Additions and multiplications of the products; an input spike costs one addition per gate
        unit. Sigmoid and tanh are not counted, so no version reaches a share of 1.
    bytes : float
        Every input read once, every output written once, and of the first weight matrix only the
        columns whose channel is active.
    """

    flops: float
    bytes: float


def work(case: Case, events: int) -> Work:
    """The least work of one call of ``case`` whose input holds ``events`` spikes."""
    spec = case.spec
    sizes = spec.recurrent_sizes
    rows = case.batch * case.steps
    recurrent = sum(size * size for size in sizes)
    between = sum(n_in * size for n_in, size in pairwise(sizes))
    head = 2 * sizes[-1] if spec.head == "linear" else 0
    dense = spec.gates * (recurrent + between) + head
    # Backward makes two products of each: for the layer below and for the weight.
    products, additions = (3, 2) if case.mode == "train" else (1, 1)
    flops = products * 2 * dense * rows + additions * spec.gates * sizes[0] * events
    columns = min(events, spec.input_size)
    biases = 2 * spec.gates * sum(sizes) + (2 if head else 0)
    weights = spec.gates * sizes[0] * columns + dense + biases
    # float32 weights (in training also their gradients), states before and after, outputs (and
    # the gradients upstream), and the event lists.
    floats = weights * additions + 2 * case.batch * spec.state_size + 2 * rows * additions
    return Work(flops, 4 * floats + 2 * events + 4 * (rows + 1))


def floor_seconds(needed: Work, peak: Peak) -> float:
    """The larger of the time to compute and the time to move what no cache can hold."""
    return max(
        needed.flops / peak.flops_per_second,
        max(0.0, needed.bytes - peak.cache_bytes) / peak.bytes_per_second,
    )
