"""Programs that share a stack and wait for each other at every iteration, interpreted together."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from helpers.cooperative import ORDERS, cooperative
from helpers.triton_checks import error, problem, values_and_gradients
from surrogate.kernels import PROVIDERS, StackSpec
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.triton.training import forward, launch, operator
from surrogate.kernels.triton.training.layout import StackLayout, Tiling, choose_tiling

#: 17 and 2 units make three blocks: one program has two, one none of the last layer's.
SPLIT = Tiling(False, 16, 16, 2, 2, 4)


def _error(
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    order: str,
    tiling: Tiling,
    batch: int = 1,
    steps: int = 2,
) -> float:
    spec = StackSpec(arch, (17, 2), 3)
    given = problem(spec, batch, steps)
    monkeypatch.setattr(operator, "choose_tiling", lambda *_: tiling)
    with cooperative(order):
        ours = values_and_gradients(PROVIDERS["triton"].run, spec, *given)
    return error(ours, values_and_gradients(run_stack_reference, spec, *given))


@pytest.mark.parametrize(("arch", "order"), [("gru", "reversed"), ("lstm", "random 0")])
def test_programs_that_share_a_stack_equal_the_reference(monkeypatch, arch, order) -> None:
    assert _error(monkeypatch, arch, order, SPLIT) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("order", list(ORDERS))
def test_programs_that_share_a_stack_equal_the_reference_in_every_order(
    monkeypatch, arch, order
) -> None:
    # Four programs for three blocks: one only waits.
    assert _error(monkeypatch, arch, order, Tiling(False, 16, 16, 2, 4, 4), batch=3) < 1e-12


@triton.jit
def _go_on(arrived_ptr, failed_ptr, MEMBERS: tl.constexpr, POLLS: tl.constexpr):
    tl.atomic_add(arrived_ptr, 1)


def test_these_tests_see_a_barrier_that_does_not_wait(monkeypatch) -> None:
    monkeypatch.setattr(forward, "group_barrier", _go_on)
    assert _error(monkeypatch, "rnn", "random 0", SPLIT, steps=6) > 1e-3


def test_results_are_nan_where_a_program_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(launch, "MAX_POLLS", 20)
    layout = StackLayout("rnn", (17, 2))
    spec = StackSpec("rnn", (17, 2), 3)
    weights, _, state = problem(spec, 1, 2, models=1)
    projected = torch.zeros(1, 2, 1, layout.widths[0], dtype=torch.float64)
    with cooperative("round robin", missing=[1]):
        hidden, *_ = launch.launch_forward(
            layout, SPLIT, projected, list(weights.values()), state, keep=False
        )
    assert hidden[..., layout.columns(1)].isnan().all()


@pytest.mark.parametrize(
    ("sizes", "batch", "models", "processors"),
    [
        ((256, 64, 2), 32, 1, 132),
        ((512, 256, 128, 64, 32, 2), 32, 1, 132),
        ((512, 256, 128, 64, 32, 2), 32, 20, 108),
        ((300, 2), 1, 1, 4),
    ],
)
def test_all_programs_that_wait_for_each_other_run_at_once(sizes, batch, models, processors):
    layout = StackLayout("lstm", sizes)
    tiling = choose_tiling(layout, batch, models, processors)
    programs = tiling.parts * -(-batch // tiling.batch) * models
    assert tiling.parts == 1 or programs <= processors
    assert tiling.parts & (tiling.parts - 1) == 0
    # More programs than blocks would only wait.
    assert tiling.parts < 2 * len(layout.table(tiling.units))
