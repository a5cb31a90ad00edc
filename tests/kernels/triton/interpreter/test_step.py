"""The stepwise Triton kernels against the float64 reference, interpreted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from helpers.cooperative import ORDERS, cooperative
from surrogate.kernels import SpikeEvents, StackSpec
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.triton.step.plan import StepPlan
from surrogate.kernels.triton.step.stepper import TritonStepper

ARCHITECTURES = ("rnn", "gru", "lstm")
#: One neuron per program; a tile of 16; programs that share a tile. Blocks of 16 units and of 16
#: elements of inner products, so that 17 units take two.
PLANS = {
    "one": StepPlan(neurons=1, units=16, inner=16, events=4, split=1, warps=1),
    "tile": StepPlan(neurons=16, units=16, inner=16, events=2, split=1, warps=4),
    "one shared": StepPlan(neurons=1, units=4, inner=16, events=16, split=4, warps=1),
    "tile shared": StepPlan(neurons=16, units=16, inner=16, events=1, split=2, warps=4),
}
COMBINATIONS = list(
    itertools.product(
        ARCHITECTURES,
        ("recurrent", "linear"),
        PLANS,
        [((17, 3, 2), 2), ((2, 2), 3), ((5, 17, 4, 2), 1)],
    )
)
#: A few that between them hold every architecture, head, plan and size.
FAST = COMBINATIONS[::10]
STEPS, INPUTS = 3, 37


def _problem(spec, neurons, own_weights=False):
    generator = torch.Generator().manual_seed(neurons)
    lead = (neurons,) if own_weights else ()
    weights = {
        name: torch.randn(*lead, *shape, generator=generator, dtype=torch.float64) * 0.4
        for name, shape in spec.parameter_shapes().items()
    }
    active = torch.rand(neurons, STEPS, spec.input_size, generator=generator) < 0.2
    active[0, 1] = False  # a neuron without input in some bin
    state = torch.randn(neurons, spec.state_size, generator=generator, dtype=torch.float64)
    return weights, active, state


def _expected(spec, weights, active, state) -> tuple[Tensor, Tensor]:
    """Outputs [N, T, 2] and final state, with common weights or with those of each neuron."""
    if weights["layers.0.weight_ih_l0"].dim() == 2:
        return run_stack_reference(spec, weights, SpikeEvents.from_dense(active), state)
    rows = [
        run_stack_reference(
            spec,
            {name: value[n] for name, value in weights.items()},
            SpikeEvents.from_dense(active[n : n + 1]),
            state[n : n + 1],
        )
        for n in range(len(active))
    ]
    outputs, final = zip(*rows, strict=True)
    return torch.cat(outputs), torch.cat(final)


def _bins(active) -> list[SpikeEvents]:
    return [SpikeEvents.from_dense(active[:, t : t + 1]) for t in range(active.shape[1])]


def _check(spec, neurons, plan, dtype=torch.float64, bound=1e-13, own_weights=False) -> None:
    weights, active, state = _problem(spec, neurons, own_weights)
    outputs, final = _expected(spec, weights, active, state)
    stepper = TritonStepper(spec, weights, neurons, dtype=dtype, plan=plan)
    stepper.state.copy_(state)
    stepper.outputs.fill_(float("nan"))
    for t, events in enumerate(_bins(active)):
        stepper.step(events.channel, events.row_ptr)
        torch.testing.assert_close(
            stepper.outputs.double(), outputs[:, t], rtol=bound, atol=bound, check_dtype=False
        )
    torch.testing.assert_close(stepper.state.double(), final, rtol=bound, atol=bound)
    stepper.check()


def _run(arch, head, plan, sizes, neurons) -> None:
    with cooperative("round robin"):
        _check(StackSpec(arch, sizes, INPUTS, head), neurons, PLANS[plan])


@pytest.mark.parametrize(("arch", "head", "plan", "size"), FAST)
def test_steps_equal_the_reference(arch, head, plan, size) -> None:
    _run(arch, head, plan, *size)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "head", "plan", "size"), COMBINATIONS)
def test_steps_equal_the_reference_in_every_combination(arch, head, plan, size) -> None:
    _run(arch, head, plan, *size)


def test_last_tile_need_not_be_full() -> None:
    _run("lstm", "linear", "tile", (3, 17, 2), 18)


@pytest.mark.parametrize("order", ORDERS)
def test_programs_may_run_in_any_order(order) -> None:
    with cooperative(order):
        _check(StackSpec("lstm", (17, 2), INPUTS), 1, PLANS["one shared"])


@pytest.mark.parametrize(("arch", "plan"), [("rnn", None), ("gru", PLANS["tile"]), ("lstm", None)])
def test_float32_stays_within_rounding(arch, plan) -> None:
    _check(StackSpec(arch, (32, 16, 2), INPUTS), 2, plan, torch.float32, 1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("head", ["recurrent", "linear"])
def test_each_neuron_may_have_its_own_weights(arch, head) -> None:
    _check(StackSpec(arch, (5, 2), INPUTS, head), 2, None, own_weights=True)


@pytest.mark.parametrize("plan", ["one", "tile"])
def test_counts_equal_events_and_are_cleared(plan) -> None:
    spec = StackSpec("gru", (5, 2), INPUTS)
    weights, active, state = _problem(spec, 3)
    outputs, final = _expected(spec, weights, active, state)
    counts = torch.zeros(3, INPUTS, dtype=torch.int32)
    lost = torch.arange(3)
    expected_lost = lost.clone()
    stepper = TritonStepper(spec, weights, 3, dtype=torch.float64, plan=PLANS[plan])
    stepper.state.copy_(state)
    generator = torch.Generator().manual_seed(0)
    for t in range(STEPS):
        spikes = active[:, t] * torch.randint(1, 4, counts.shape, generator=generator)
        counts += spikes.int()
        expected_lost += (spikes - 1).clamp(min=0).sum(1)
        stepper.step_counts(counts, lost)
        assert not counts.any()
        assert torch.equal(lost, expected_lost)
        torch.testing.assert_close(stepper.outputs, outputs[:, t], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(stepper.state, final, rtol=1e-13, atol=1e-13)


def test_counts_may_exceed_a_block_and_an_int32_sum() -> None:
    spec = StackSpec("rnn", (2, 2), 3000)
    weights = _problem(spec, 1)[0]
    counts = torch.zeros(1, 3000, dtype=torch.int32)
    counts[0, ::7] = 2**31 - 1
    lost = torch.zeros(1, dtype=torch.int64)
    stepper = TritonStepper(spec, weights, 1, dtype=torch.float64)
    active = counts[:, None] > 0
    stepper.step_counts(counts, lost)
    assert lost.item() == 429 * (2**31 - 2)
    outputs, _ = _expected(spec, weights, active, torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(stepper.outputs, outputs[:, 0], rtol=1e-12, atol=1e-12)


def test_works_in_given_arrays_and_ignores_what_lies_behind_the_events() -> None:
    spec = StackSpec("rnn", (3, 2), INPUTS)
    weights, active, state = _problem(spec, 2)
    outputs, _ = _expected(spec, weights, active, state)
    mine = state.clone(), torch.empty(2, 2, dtype=torch.float64)
    stepper = TritonStepper(spec, weights, 2, dtype=torch.float64, state=mine[0], outputs=mine[1])
    weights["layers.0.bias_ih_l0"] += 1  # the stepper has its own copy
    events = _bins(active)[0]
    room = torch.full((50,), -1, dtype=torch.int16)
    room[: events.channel.numel()] = events.channel
    stepper.step(room, events.row_ptr)
    assert stepper.state is mine[0]
    torch.testing.assert_close(mine[1], outputs[:, 0], rtol=1e-13, atol=1e-13)


def test_missing_program_voids_the_outputs_and_is_reported(monkeypatch) -> None:
    monkeypatch.setattr("surrogate.kernels.triton.step.stepper.MAX_POLLS", 20)
    spec = StackSpec("rnn", (17, 2), INPUTS)
    weights, active, _ = _problem(spec, 1)
    stepper = TritonStepper(spec, weights, 1, dtype=torch.float64, plan=PLANS["one shared"])
    events = _bins(active)[0]
    with cooperative("round robin", missing=[2]):
        stepper.step(events.channel, events.row_ptr)
    assert stepper.outputs.isnan().all()
    with pytest.raises(RuntimeError, match="did not meet"):
        stepper.check()


def test_arguments_that_do_not_fit_are_refused() -> None:
    spec = StackSpec("rnn", (3, 2), INPUTS)
    weights, active, _ = _problem(spec, 2)
    events = _bins(active)[0]
    stepper = TritonStepper(spec, weights, 2)
    with pytest.raises(ValueError, match=r"row_ptr has shape \(2,\), expected \(3,\)"):
        stepper.step(events.channel, events.row_ptr[:-1])
    with pytest.raises(ValueError, match=r"channel is torch\.int32"):
        stepper.step(events.channel.int(), events.row_ptr)
    with pytest.raises(ValueError, match="counts is"):
        stepper.step_counts(torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"state is torch\.float64"):
        TritonStepper(spec, weights, 2, state=torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"cannot run this stack.* torch\.float16"):
        TritonStepper(spec, weights, 2, dtype=torch.float16)
    own = {name: value.expand(2, *value.shape) for name, value in weights.items()}
    with pytest.raises(ValueError, match=r"weight_ih_l0 has shape \(2, 3, 37\), expected \(4, "):
        TritonStepper(spec, own, 4)
    with pytest.raises(ValueError, match="one per program"):
        TritonStepper(spec, own, 2, plan=PLANS["tile"])
