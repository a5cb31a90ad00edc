"""The Triton training kernels on a real GPU, at the sizes they are for."""

from __future__ import annotations

import pytest
import torch

from helpers.triton_checks import (
    error,
    error_against_reference,
    problem,
    run_models_one_by_one,
    values_and_gradients,
)
from surrogate.kernels import PROVIDERS, SpikeEvents, StackSpec
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.triton import why_not

pytestmark = pytest.mark.gpu
TRITON = PROVIDERS["triton"]
ARCHITECTURES = ("rnn", "gru", "lstm")
#: Weights of this size keep 512 units from a chaos that would amplify any rounding.
SCALE = 0.05
BOUND = 2e-5


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if reason := why_not("cuda"):
        pytest.skip(reason)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize(
    ("sizes", "batch", "steps"),
    [
        ((32, 16, 2), 32, 50),
        ((128, 32, 2), 5, 20),
        ((256, 64, 2), 32, 20),
        ((128, 64, 64, 64, 32, 2), 7, 6),
        ((256, 128, 64, 32, 16, 2), 33, 8),
        ((512, 256, 128, 64, 32, 2), 32, 10),
        ((300, 2), 3, 2),
        ((2, 2), 1, 1),
    ],
)
def test_stack_equals_reference_in_values_and_gradients(arch, head, sizes, batch, steps) -> None:
    spec = StackSpec(arch, sizes, 127, head)
    found = error_against_reference(
        TRITON.run, spec, batch, steps, SCALE, dtype=torch.float32, device="cuda"
    )
    assert found < BOUND


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("sizes", "models"), [((32, 16, 2), 7), ((256, 64, 2), 3)])
@pytest.mark.parametrize("per_model", [False, True])
def test_models_in_one_launch_equal_single_runs(arch, sizes, models, per_model) -> None:
    spec = StackSpec(arch, sizes, 63)
    weights, events, state = problem(spec, 5, 9, models, SCALE)
    if not per_model:
        events = SpikeEvents.from_dense(events.to_dense(63)[:5])
    where = {"dtype": torch.float32, "device": "cuda"}
    ours = values_and_gradients(TRITON.run_models, spec, weights, events, state, **where)
    single = run_models_one_by_one(run_stack_reference, per_model)
    assert error(ours, values_and_gradients(single, spec, weights, events, state)) < BOUND


@pytest.mark.parametrize("sizes", [(32, 16, 2), (256, 64, 2)])
def test_twenty_runs_give_bit_equal_results(sizes) -> None:
    spec = StackSpec("lstm", sizes, 127)
    given = problem(spec, 32, 100, scale=SCALE)
    where = {"dtype": torch.float32, "device": "cuda"}
    once = values_and_gradients(TRITON.run, spec, *given, **where)
    for _ in range(20):
        again = values_and_gradients(TRITON.run, spec, *given, **where)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_recurrent_stack_on_a_gpu_uses_these_kernels() -> None:
    from surrogate.kernels import default_provider

    assert default_provider(torch.device("cuda")) == "triton"
