"""The suites: ``python -m pytest benchmarks --benchmark-enable``; see docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from surrogate.benchmarks.bench import parity_bound
from surrogate.benchmarks.contenders import Contender, ours
from surrogate.benchmarks.measure import parity
from surrogate.benchmarks.peers import candidates
from surrogate.benchmarks.problems import Case, Problem

__all__ = ["checked"]


@pytest.fixture
def checked() -> Callable[[Case], Contender]:
    """Ours for a case, after a check that it agrees with the torch provider."""
    torch.set_num_threads(1)

    def check(case: Case) -> Contender:
        problem = Problem.draw(case)
        contender = ours(problem)
        (make, *_) = candidates("torch.events", problem)
        found = parity(contender.values(), make().values())
        assert found <= parity_bound("torch.events", case.mode)
        return contender

    return check
