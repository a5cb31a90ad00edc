"""The Triton training kernels against the float64 reference and torch.nn, interpreted."""

from __future__ import annotations

import itertools
from functools import partial

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
from surrogate.kernels.triton.training import operator
from surrogate.kernels.triton.training.layout import Tiling
from surrogate.kernels.triton.training.projection import project_events, sum_by_channel

TRITON = PROVIDERS["triton"]
ARCHITECTURES = ("rnn", "gru", "lstm")
_NN = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
#: A batch tile that 3 sequences do not fill, and two blocks of units and of inputs for 17 units.
TILINGS = {
    "resident": Tiling(True, 0, 0, 1, 1, 4),
    "blocked": Tiling(False, 16, 16, 2, 1, 4),
}
COMBINATIONS = itertools.product(
    ARCHITECTURES,
    ("recurrent", "linear"),
    TILINGS,
    [
        ((17, 3, 2), 3, 4),
        ((5, 2), 1, 1),
        ((2, 2), 3, 2),
        ((3, 5, 4, 2, 6, 2), 2, 6),
        ((33, 2), 2, 20),
    ],
)


def _use(monkeypatch: pytest.MonkeyPatch, tiling: str) -> None:
    monkeypatch.setattr(operator, "choose_tiling", lambda *_: TILINGS[tiling])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "head", "tiling", "shape"), list(COMBINATIONS))
def test_every_combination_equals_reference_in_values_and_gradients(
    monkeypatch, arch, head, tiling, shape
) -> None:
    _use(monkeypatch, tiling)
    sizes, batch, steps = shape
    spec = StackSpec(arch, sizes, 7, head)
    assert error_against_reference(TRITON.run, spec, batch, steps) < 1e-12


@pytest.mark.parametrize(
    ("arch", "head", "tiling", "sizes", "batch", "steps"),
    [
        ("rnn", "recurrent", "resident", (5, 2), 1, 20),
        ("rnn", "linear", "blocked", (17, 2), 3, 3),
        ("gru", "linear", "resident", (5, 3, 2), 3, 2),
        ("gru", "recurrent", "blocked", (17, 2), 3, 2),
        ("lstm", "recurrent", "resident", (5, 3, 2), 1, 3),
        ("lstm", "linear", "blocked", (17, 3, 2), 3, 1),
    ],
)
def test_stack_equals_reference_in_values_and_gradients(
    monkeypatch, arch, head, tiling, sizes, batch, steps
) -> None:
    _use(monkeypatch, tiling)
    spec = StackSpec(arch, sizes, 7, head)
    assert error_against_reference(TRITON.run, spec, batch, steps) < 1e-12


@pytest.mark.parametrize(
    ("arch", "tiling"), [("rnn", "blocked"), ("gru", "resident"), ("lstm", "blocked")]
)
def test_float32_stays_within_rounding_of_float64(monkeypatch, arch, tiling) -> None:
    _use(monkeypatch, tiling)
    spec = StackSpec(arch, (17, 2), 7)
    found = error_against_reference(TRITON.run, spec, 2, 3, dtype=torch.float32)
    assert 1e-9 < found < 5e-6


@pytest.mark.parametrize(
    ("arch", "tiling"), [("rnn", "resident"), ("gru", "blocked"), ("lstm", "resident")]
)
def test_stack_equals_torch_nn_layer_by_layer(monkeypatch, arch, tiling) -> None:
    _use(monkeypatch, tiling)
    spec = StackSpec(arch, (3, 2), 7)

    def run_nn(spec, weights, events, state):
        x, parts = events.to_dense(7, torch.float64), []
        for layer, (size, at) in enumerate(zip((3, 2), spec.state_slices, strict=True)):
            module = _NN[arch](x.shape[2], size, batch_first=True, dtype=torch.float64)
            own = {name: weights[f"layers.{layer}.{name}"] for name, _ in module.named_parameters()}
            initial = tuple(state[None, :, at[name]].contiguous() for name in at)
            x, last = torch.func.functional_call(
                module, own, (x, initial if arch == "lstm" else initial[0])
            )
            parts += [part[0] for part in (last if arch == "lstm" else (last,))]
        return x, torch.cat(parts, 1)

    given = problem(spec, 3, 2)
    ours = values_and_gradients(TRITON.run, spec, *given)
    assert error(ours, values_and_gradients(run_nn, spec, *given)) < 1e-12


@pytest.mark.parametrize(
    ("arch", "tiling", "per_model"),
    [("rnn", "resident", True), ("gru", "blocked", False), ("lstm", "blocked", True)],
)
def test_three_models_in_one_launch_equal_three_runs(monkeypatch, arch, tiling, per_model) -> None:
    _use(monkeypatch, tiling)
    spec = StackSpec(arch, (3, 2), 5, head="linear" if arch == "rnn" else "recurrent")
    weights, events, state = problem(spec, 1, 2, models=3)
    if not per_model:
        events = SpikeEvents.from_dense(events.to_dense(5)[:1])
    ours = values_and_gradients(TRITON.run_models, spec, weights, events, state)
    single = run_models_one_by_one(run_stack_reference, per_model)
    assert error(ours, values_and_gradients(single, spec, weights, events, state)) < 1e-12


@pytest.mark.parametrize(("arch", "tiling"), [("gru", "blocked"), ("lstm", "resident")])
def test_chunks_with_carried_state_equal_the_whole(monkeypatch, arch, tiling) -> None:
    _use(monkeypatch, tiling)
    spec = StackSpec(arch, (3, 2), 9)
    weights, events, state = problem(spec, 1, 4)
    whole, final = TRITON.run(spec, weights, events, state)
    parts = []
    for start, stop in ((0, 1), (1, 4)):
        part, state = TRITON.run(spec, weights, events.slice_steps(start, stop), state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state, final, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("arch", ["gru", "lstm"])
def test_gradients_agree_with_finite_differences(arch) -> None:
    spec = StackSpec(arch, (2,), 3)
    weights, events, state = problem(spec, 1, 2)
    tensors = [value.requires_grad_() for value in (*weights.values(), state)]

    def run(*values):
        return TRITON.run(spec, dict(zip(weights, values, strict=False)), events, values[-1])

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)


def test_state_gradient_alone_and_output_gradient_alone_are_the_references() -> None:
    spec = StackSpec("lstm", (3, 2), 5)
    weights, events, state = problem(spec, 1, 2)
    state.requires_grad_()
    for which in (0, 1):
        ours, exact = (
            torch.autograd.grad(run(spec, weights, events, state)[which].sum(), state)[0]
            for run in (TRITON.run, run_stack_reference)
        )
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_input_without_any_spike_has_zero_input_gradients() -> None:
    spec = StackSpec("rnn", (3, 2), 5)
    weights, _, state = problem(spec, 1, 2)
    silent = SpikeEvents.from_dense(torch.zeros(1, 2, 5))
    _, _, first, second, *_ = values_and_gradients(TRITON.run, spec, weights, silent, state)
    assert (first == 0).all()
    assert second.abs().sum() > 0


def test_projection_and_its_gradient_equal_the_dense_products_over_several_blocks() -> None:
    generator = torch.Generator().manual_seed(3)
    models, batch, steps, inputs, columns = 2, 2, 2, 30, 300
    dense = (torch.rand(models * batch, steps, inputs, generator=generator) < 0.6).double()
    events = SpikeEvents.from_dense(dense)
    weight = torch.randn(models, columns, inputs, generator=generator, dtype=torch.float64)
    x = dense.view(models, batch, steps, inputs).transpose(1, 2)
    ours = project_events(weight, events.channel, events.row_ptr, batch, steps)
    torch.testing.assert_close(ours, torch.einsum("mtbi,mci->mtbc", x, weight))
    # One row more than steps and columns that do not start at 0: what the caller has.
    grad = torch.randn(models, steps + 1, batch, columns, generator=generator, dtype=torch.float64)
    wanted = slice(16, 290)
    ours = sum_by_channel(grad, wanted, events.channel, events.row_ptr, batch, steps, inputs)
    exact = torch.einsum("mtbi,mtbc->mci", x, grad[:, :steps, :, wanted])
    torch.testing.assert_close(ours, exact)


def test_operator_keeps_the_promises_of_torch_library() -> None:
    spec = StackSpec("gru", (2,), 3)
    weights, events, state = problem(spec, 1, 1, models=1)
    tensors = [value.requires_grad_() for value in weights.values()]
    torch.library.opcheck(
        torch.ops.surrogate.recurrent_stack.default,
        (tensors, state.requires_grad_(), events.channel, events.row_ptr, "gru", [2], 1, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_compiled_function_holds_the_stack_as_one_operator() -> None:
    spec = StackSpec("rnn", (3, 2), 2, head="linear")
    weights, events, state = problem(spec, 1, 1)

    def run(spec, weights, events, state):
        compiled = torch.compile(
            partial(TRITON.run, spec, weights, events), backend="aot_eager", fullgraph=True
        )
        return compiled(state)

    ours = values_and_gradients(run, spec, weights, events, state)
    exact = values_and_gradients(run_stack_reference, spec, weights, events, state)
    assert error(ours, exact) < 1e-12


def test_two_runs_give_bit_equal_gradients() -> None:
    spec = StackSpec("rnn", (3, 2), 10)
    given = problem(spec, 2, 2)
    once = values_and_gradients(TRITON.run, spec, *given, dtype=torch.float32)
    again = values_and_gradients(TRITON.run, spec, *given, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
