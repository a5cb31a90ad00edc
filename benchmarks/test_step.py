"""One bin of all neurons per call; a round is a pass over 256 bins, or over 12 of 1000 neurons."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from surrogate.benchmarks.contenders import Contender
from surrogate.benchmarks.problems import Case
from surrogate.kernels import StackSpec, join_sizes
from surrogate.kernels.architectures import L5PC_INPUTS


@pytest.mark.parametrize("neurons", [1, 1000])
@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("rnn", (32, 16, 2)),
        ("lstm", (32, 16, 2)),
        ("gru", (256, 64, 2)),
        ("lstm", (256, 64, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else join_sizes(value),
)
def test_step(
    benchmark: BenchmarkFixture,
    checked: Callable[[Case], Contender],
    arch: str,
    sizes: tuple[int, ...],
    neurons: int,
) -> None:
    case = Case(StackSpec(arch, sizes, L5PC_INPUTS), "step", neurons)
    contender = checked(case)
    benchmark.extra_info.update(provider=contender.variant, calls_per_round=case.calls)
    benchmark(contender.run)
