"""Forward and backward of 32 windows of 1000 bins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from surrogate.benchmarks.contenders import Contender
from surrogate.benchmarks.problems import Case
from surrogate.kernels import StackSpec, join_sizes
from surrogate.kernels.architectures import L5PC_INPUTS


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("rnn", (32, 16, 2)),
        ("lstm", (32, 16, 2)),
        ("gru", (256, 64, 2)),
        ("lstm", (256, 64, 2)),
        ("lstm", (512, 256, 128, 64, 32, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else join_sizes(value),
)
def test_training_step(
    benchmark: BenchmarkFixture,
    checked: Callable[[Case], Contender],
    arch: str,
    sizes: tuple[int, ...],
) -> None:
    contender = checked(Case(StackSpec(arch, sizes, L5PC_INPUTS), "train", 32, 1000))
    benchmark.extra_info.update(provider=contender.variant)
    benchmark.pedantic(contender.run, rounds=5, warmup_rounds=1)
