"""A cell from outside the package runs through every kernel, interpreted."""

from __future__ import annotations

import pytest
import torch

from helpers.minimal_gated import MINIMAL_GATED
from helpers.triton_checks import error_against_reference
from surrogate.kernels import ARCHITECTURES, PROVIDERS, SpikeEvents, StackSpec
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.triton.step.plan import StepPlan
from surrogate.kernels.triton.step.stepper import TritonStepper
from surrogate.kernels.triton.training import operator
from surrogate.kernels.triton.training.layout import Tiling


@pytest.fixture(autouse=True)
def _known(monkeypatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "minimal", MINIMAL_GATED)


@pytest.mark.parametrize(
    "tiling", [Tiling(True, 0, 0, 1, 1, 4), Tiling(False, 16, 16, 2, 1, 4)], ids=str
)
def test_values_and_gradients_equal_the_reference(monkeypatch, tiling) -> None:
    monkeypatch.setattr(operator, "choose_tiling", lambda *_: tiling)
    spec = StackSpec("minimal", (17, 3, 2), 7)
    assert error_against_reference(PROVIDERS["triton"].run, spec, 3, 3) < 1e-12


@pytest.mark.parametrize("plan", [StepPlan(1, 16, 16, 4, 1, 1), StepPlan(16, 16, 16, 2, 1, 4)])
def test_steps_equal_the_reference(plan) -> None:
    spec = StackSpec("minimal", (17, 3, 2), 7, "linear")
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4
        for name, shape in spec.parameter_shapes().items()
    }
    events = SpikeEvents.from_dense(torch.rand(3, 1, 7, generator=generator) < 0.3)
    state = torch.randn(3, spec.state_size, generator=generator, dtype=torch.float64)
    outputs, final = run_stack_reference(spec, weights, events, state)
    stepper = TritonStepper(spec, weights, 3, dtype=torch.float64, state=state, plan=plan)
    stepper.step(events.channel, events.row_ptr)
    torch.testing.assert_close(stepper.outputs, outputs[:, 0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(stepper.state, final, rtol=1e-13, atol=1e-13)
