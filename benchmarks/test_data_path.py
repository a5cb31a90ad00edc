"""Reading batches of 32 windows of 1000 ms from the bundled sample, as training does."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from surrogate import datasets
from surrogate.benchmarks.data_path import BATCH, STEPS


@pytest.mark.parametrize("part", ["events", "voltage", "spikes"])
def test_reading(benchmark: BenchmarkFixture, part: str) -> None:
    rng = np.random.default_rng(0)
    with datasets.open() as data:
        trials = rng.integers(0, len(data), BATCH)
        starts = rng.integers(0, data.n_steps - STEPS + 1, BATCH)
        benchmark(getattr(data, part), trials, starts, STEPS)
