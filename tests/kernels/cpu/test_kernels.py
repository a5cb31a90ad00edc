"""What the C++ kernels could get wrong by themselves: vector ends, chunks, threads, kept memory."""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from surrogate.kernels import SpikeEvents, StackSpec, cpu, run_stack
from surrogate.kernels.cpu import sequences
from surrogate.kernels.stepper import Stepper

pytestmark = pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")

ARCHITECTURES = ("rnn", "gru", "lstm")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _problem(
    spec: StackSpec, batch: int, steps: int, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, Tensor], SpikeEvents, Tensor, list[Tensor]]:
    """Weights, events, state and random gradients of outputs and final state."""
    generator = torch.Generator().manual_seed(steps)
    weights = {
        name: (torch.randn(shape, generator=generator, dtype=dtype) / shape[-1] ** 0.5)
        for name, shape in spec.parameter_shapes().items()
    }
    dense = torch.rand(batch, steps, spec.input_size, generator=generator) < 0.05
    state, *grads = (
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape in ((batch, spec.state_size), (batch, steps, 2), (batch, spec.state_size))
    )
    for tensor in (*weights.values(), state):
        tensor.requires_grad_()
    return weights, SpikeEvents.from_dense(dense), state, grads


def _run(spec, weights, events, state, grads, provider="cpu") -> list[Tensor]:
    outputs = run_stack(spec, weights, events, state, provider)
    return [*outputs, *torch.autograd.grad(outputs, [*weights.values(), state], grads)]


def _equal(ours: list[Tensor], theirs: list[Tensor], bound: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= bound * b.abs().max()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("head", ["recurrent", "linear"])
# Whole vectors of every width, one unit more, one less, and each number of vectors in a panel.
@pytest.mark.parametrize(
    ("sizes", "batch"), [((64, 48, 2), 13), ((65, 31, 16, 2), 3), ((80, 95, 2), 7), ((512, 2), 2)]
)
def test_values_and_gradients_at_vector_ends(arch, dtype, head, sizes, batch) -> None:
    spec = StackSpec(arch, sizes, input_size=90, head=head)
    weights, events, state, grads = _problem(spec, batch, 4, dtype)
    exact = {name: weight.detach().double().requires_grad_() for name, weight in weights.items()}
    start = state.detach().double().requires_grad_()
    double = [grad.double() for grad in grads]
    _equal(
        _run(spec, weights, events, state, grads),
        _run(spec, exact, events, start, double, "reference"),
        1e-12 if dtype == torch.float64 else 1e-5,
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("steps", [256, 257, 600])
def test_sequences_longer_than_a_chunk_of_steps(arch, steps) -> None:
    spec = StackSpec(arch, (5, 3, 2), input_size=20)
    problem = _problem(spec, 2, steps)
    ours = _run(spec, *problem)
    _equal(ours, _run(spec, *problem, "torch"), 1e-10)
    with torch.no_grad():
        for a, b in zip(run_stack(spec, *problem[:3], "cpu"), ours[:2], strict=True):
            assert torch.equal(a, b), "without gradients the values are the same, bit for bit"


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_split_the_batch(batch) -> None:
    spec = StackSpec("lstm", (9, 2), input_size=30)
    problem = _problem(spec, batch, 12)
    _equal(_run(spec, *problem), _run(spec, *problem, "reference"))


def test_two_graphs_at_once_keep_their_memory_apart() -> None:
    spec = StackSpec("gru", (9, 2), input_size=30)
    first, second = _problem(spec, 3, 12), _problem(spec, 4, 15)
    one = run_stack(spec, *first[:3], "cpu")
    other = run_stack(spec, *second[:3], "cpu")
    for outputs, (weights, events, state, grads) in ((other, second), (one, first)):
        ours = torch.autograd.grad(outputs, [*weights.values(), state], grads)
        _equal(list(ours), _run(spec, weights, events, state, grads, "reference")[2:])


def test_backward_can_be_repeated_on_a_retained_graph() -> None:
    spec = StackSpec("rnn", (9, 2), input_size=30)
    weights, events, state, grads = _problem(spec, 3, 12)
    outputs = run_stack(spec, weights, events, state, "cpu")
    leaves = [*weights.values(), state]
    once = torch.autograd.grad(outputs, leaves, grads, retain_graph=True)
    again = torch.autograd.grad(outputs, leaves, grads)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_working_memory_is_used_again_by_the_next_batch() -> None:
    spec = StackSpec("rnn", (7, 2), input_size=30)
    problem = _problem(spec, 3, 12)
    for _ in range(5):
        _run(spec, *problem)
        gc.collect()
    assert len(sequences._workshop._free[spec, torch.float64]) == 1


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_nothing_is_kept_where_no_gradient_is_wanted(without, monkeypatch) -> None:
    kept = []
    module = cpu.load()

    class Spy:
        def __init__(self, *arguments) -> None:
            self._stack = module.Stack(*arguments)
            self.set_weights = self._stack.set_weights

        def forward(self, *arguments) -> None:
            kept.append(arguments[-1])
            self._stack.forward(*arguments)

    monkeypatch.setattr(
        sequences, "make_stack", lambda *_: Spy(0, False, 30, (8, 2), True, 1, (), (), False)
    )
    spec = StackSpec("rnn", (8, 2), input_size=30)
    problem = _problem(spec, 3, 12)
    with without():
        run_stack(spec, *problem[:3], "cpu")
    run_stack(spec, *problem[:3], "cpu")
    gc.collect()
    sequences._workshop._free.clear()
    assert kept == [False, True]


def test_a_code_that_no_cell_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell has the code 99"):
        cpu.load().Stack(99, False, 30, (8, 2), True, 1, (), (), False)


def test_second_derivatives_are_refused() -> None:
    spec = StackSpec("rnn", (9, 2), input_size=30)
    weights, events, state, _ = _problem(spec, 3, 12)
    outputs, _ = run_stack(spec, weights, events, state, "cpu")
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(outputs.sum(), list(weights.values()), create_graph=True)


def test_a_stack_that_cannot_be_made_leaves_no_other_message(capfd) -> None:
    spec = StackSpec("rnn", (9, 2), input_size=30)
    weights, events, state, _ = _problem(spec, 1, 2, torch.float32)
    half = {name: weight.detach().half() for name, weight in weights.items()}
    with pytest.raises(ValueError, match=r"not in torch\.float16"):
        run_stack(spec, half, events, state.detach().half(), "cpu")
    gc.collect()
    assert capfd.readouterr().err == ""


def test_working_memory_does_not_pile_up() -> None:
    spec = StackSpec("rnn", (6, 2), input_size=30)
    weights, events, state, _ = _problem(spec, 1, 2)
    alive = [run_stack(spec, weights, events, state, "cpu") for _ in range(9)]
    alive.clear()
    gc.collect()
    assert len(sequences._workshop._free[spec, torch.float64]) <= 2 * torch.get_num_threads()


def test_events_overwritten_before_the_backward_pass_are_noticed() -> None:
    spec = StackSpec("rnn", (9, 2), input_size=30)
    weights, events, state, grads = _problem(spec, 3, 12)
    memory = events.channel.numpy()
    outputs = run_stack(spec, weights, events, state, "cpu")
    memory[0] = 30
    with pytest.raises(ValueError, match="outside"):
        torch.autograd.grad(outputs, list(weights.values()), grads)


def test_nan_in_a_weight_reaches_the_outputs() -> None:
    spec = StackSpec("lstm", (17, 2), input_size=30)
    weights, events, state, _ = _problem(spec, 2, 3, torch.float32)
    with torch.no_grad():
        weights["layers.0.weight_hh_l0"][5, 3] = float("nan")
        outputs, _ = run_stack(spec, weights, events, state, "cpu")
    assert outputs[:, -1].isnan().all()


def test_infinite_sums_saturate() -> None:
    spec = StackSpec("rnn", (3, 2), input_size=4)
    weights, events, state, _ = _problem(spec, 1, 2, torch.float32)
    with torch.no_grad():
        weights["layers.1.bias_ih_l0"][0] = 3e38
        weights["layers.1.bias_ih_l0"][1] = float("-inf")
        outputs, _ = run_stack(spec, weights, events, state, "cpu")
    torch.testing.assert_close(outputs, torch.tensor([1.0, -1.0]).expand(1, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"layers.1.bias_hh_l0": torch.zeros(3)}), "layers.1.bias_hh_l0 is"),
        (lambda w: w.update({"layers.0.bias_hh_l0": torch.zeros(5).half()}), "float16"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message) -> None:
    spec = StackSpec("rnn", (5, 2), input_size=30)
    weights, events, state, _ = _problem(spec, 2, 3, torch.float32)
    change(weights)
    with pytest.raises(ValueError, match=message):
        run_stack(spec, weights, events, state, "cpu")


def test_events_outside_the_input_are_refused() -> None:
    spec = StackSpec("rnn", (5, 2), input_size=30)
    weights, _, _, _ = _problem(spec, 1, 2, torch.float32)
    events = SpikeEvents(
        torch.tensor([30], dtype=torch.int16), torch.tensor([0, 1, 1], dtype=torch.int32), 1, 2
    )
    with pytest.raises(ValueError, match=r"outside 0\.\.29"):
        run_stack(spec, weights, events, provider="cpu")


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64")
    or (platform.system() == "Windows" and platform.machine().lower() == "arm64"),
    reason="subnormal numbers are zero on x86-64, and on arm64 with GCC or Clang",
)
def test_subnormal_numbers_are_zero_within_the_kernels_and_only_there() -> None:
    spec = StackSpec("rnn", (2,), input_size=3)
    weights = {
        name: torch.eye(2) * 1e-10 if "weight_hh" in name else torch.zeros(shape)
        for name, shape in spec.parameter_shapes().items()
    }
    silent = SpikeEvents.from_dense(torch.zeros(1, 1, 3))
    state = torch.full((1, 2), 1e-30, requires_grad=True)
    outputs, _ = run_stack(spec, weights, silent, state, "reference")
    assert 0 < outputs.max() < torch.finfo(torch.float32).tiny

    outputs, _ = run_stack(spec, weights, silent, state, "cpu")
    (grad,) = torch.autograd.grad(outputs, state, torch.full((1, 1, 2), 1e-30))
    stepper = Stepper(spec, weights, 1, state=state.detach().numpy(), provider="cpu")
    stepper.step(silent.channel.numpy(), silent.row_ptr.numpy())
    assert not outputs.any()
    assert not grad.any()
    assert not stepper.outputs.any()
    assert torch.tensor(1e-40) * 0.5 > 0
