"""The stack's providers against the reference, and the reference against torch.nn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.stacks import EVERY, FAST, poison_buffers, problem, values_and_gradients
from surrogate.kernels import SpikeEvents, StackSpec, providers, run_models, run_stack

ARCHITECTURES = ("rnn", "gru", "lstm")
_NN = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


@pytest.fixture(autouse=True)
def _poisoned_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_buffers(monkeypatch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize(
    ("sizes", "batch", "steps"),
    [((5, 3, 2), 3, 20), ((7, 2), 1, 1), ((2, 2), 5, 2), ((3, 5, 4, 2, 6, 2), 2, 6)],
)
@pytest.mark.parametrize("provider", FAST)
def test_provider_equals_reference_invalues_and_gradients(
    provider, arch, head, sizes, batch, steps
) -> None:
    spec = StackSpec(arch, sizes, input_size=63, head=head)
    given = problem(spec, batch, steps)
    ours = values_and_gradients(spec, *given, provider)
    theirs = values_and_gradients(spec, *given, "reference")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("provider", FAST)
def test_provider_in_float32_stays_within_rounding_of_float64(provider, arch) -> None:
    spec = StackSpec(arch, (32, 16, 2), input_size=127)
    weights, events, state = problem(spec, 5, 50, torch.float64, rate=0.05)
    # Small weights: a chaotic recurrence would amplify rounding in any implementation.
    weights = {name: (value.detach() / 4).requires_grad_() for name, value in weights.items()}
    exact = values_and_gradients(spec, weights, events, state, "reference")
    single = {name: value.detach().float().requires_grad_() for name, value in weights.items()}
    rounded = values_and_gradients(
        spec, single, events, state.detach().float().requires_grad_(), provider
    )
    for a, b in zip(rounded, exact, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("provider", EVERY)
def test_provider_equals_torch_nn_layer_by_layer(provider, arch) -> None:
    spec = StackSpec(arch, (6, 4, 2), input_size=31)
    weights, events, state = problem(spec, 3, 11)
    outputs, final = run_stack(spec, weights, events, state, provider)
    x, parts = events.to_dense(31, torch.float64), []
    for layer, (size, at) in enumerate(zip((6, 4, 2), spec.state_slices, strict=True)):
        module = _NN[arch](x.shape[2], size, batch_first=True, dtype=torch.float64)
        prefix = f"layers.{layer}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )
        initial = tuple(state[None, :, at[name]].contiguous() for name in at)
        x, last = module(x, initial if arch == "lstm" else initial[0])
        parts += [part[0] for part in (last if arch == "lstm" else (last,))]
    torch.testing.assert_close(outputs, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final, torch.cat(parts, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("provider", FAST)
def test_gradients_pass_gradcheck(provider, arch) -> None:
    spec = StackSpec(arch, (3, 2), input_size=5, head="linear")
    weights, events, state = problem(spec, 2, 4)
    names = list(weights)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        *values, state = tensors
        return run_stack(spec, dict(zip(names, values, strict=True)), events, state, provider)

    assert torch.autograd.gradcheck(run, (*weights.values(), state))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("provider", EVERY)
def test_chunks_with_carried_state_equal_the_whole(provider, arch) -> None:
    spec = StackSpec(arch, (5, 3, 2), input_size=17)
    weights, events, state = problem(spec, 3, 13)
    whole, final = run_stack(spec, weights, events, state, provider)
    parts = []
    for start, stop in ((0, 1), (1, 6), (6, 13)):
        chunk = events.slice_steps(start, stop)
        chunk.validate(17)
        part, state = run_stack(spec, weights, chunk, state, provider)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state, final, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("provider", EVERY)
def test_input_without_any_spike_runs_and_has_zero_input_gradients(provider) -> None:
    spec = StackSpec("lstm", (3, 2), input_size=9)
    weights, _, state = problem(spec, 2, 5)
    silent = SpikeEvents.from_dense(torch.zeros(2, 5, 9))
    outputs, _, *gradients = values_and_gradients(spec, weights, silent, state, provider)
    assert outputs.isfinite().all()
    assert (gradients[0] == 0).all()
    assert gradients[1].abs().sum() > 0


@pytest.mark.parametrize("provider", FAST)
def test_two_runs_give_bit_equal_gradients(provider) -> None:
    spec = StackSpec("gru", (16, 2), input_size=200)
    given = problem(spec, 8, 40, torch.float32, rate=0.1)
    once = values_and_gradients(spec, *given, provider)
    again = values_and_gradients(spec, *given, provider)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_run_stack_refuses_shapes_that_do_not_fit() -> None:
    spec = StackSpec("rnn", (3, 2), input_size=9)
    weights, events, _ = problem(spec, 2, 5)
    with pytest.raises(ValueError, match=r"state has shape \(2, 4\), expected \(2, 5\)"):
        run_stack(spec, weights, events, torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="unknown provider 'cudnn'"):
        run_stack(spec, weights, events, provider="cudnn")
    with pytest.raises(ValueError, match=r"expected \(3, 8\)"):
        run_stack(StackSpec("rnn", (3, 2), input_size=8), weights, events)
    with pytest.raises(ValueError, match=r"weights lack layers\.1\.bias_hh_l0"):
        run_stack(spec, dict(list(weights.items())[:-1]), events)
    with pytest.raises(ValueError, match="none to run"):
        run_stack(spec, weights, events.slice_steps(2, 2))


@pytest.mark.parametrize(
    ("channel", "row_ptr", "message"),
    [
        ([0, 1, 1], [0, 2, 3], None),
        ([1, 1], [0, 2, 2], "ascending and unique"),
        ([2, 1], [0, 2, 2], "ascending and unique"),
        ([0, 9], [0, 1, 2], "expected 0..8"),
        ([0, -1], [0, 1, 2], "expected 0..8"),
        ([0, 1], [0, 2, 1], "must rise"),
        ([0, 1], [0, 1, 1], "must rise"),
    ],
)
def test_spike_events_check_their_promises(channel, row_ptr, message) -> None:
    events = SpikeEvents(
        torch.tensor(channel, dtype=torch.int16), torch.tensor(row_ptr, dtype=torch.int32), 1, 2
    )
    if message is None:
        events.validate(9)
    else:
        with pytest.raises(ValueError, match=message):
            events.validate(9)


def test_the_last_of_as_many_channels_as_there_can_be_is_valid() -> None:
    row_ptr = torch.tensor([0, 2], dtype=torch.int32)
    events = SpikeEvents(torch.tensor([0, 2**15 - 1], dtype=torch.int16), row_ptr, 1, 1)
    events.validate(2**15)
    with pytest.raises(ValueError, match=r"spans 0\.\.32767, expected 0\.\.32766"):
        events.validate(2**15 - 1)


def test_spike_events_go_to_dense_and_back() -> None:
    dense = torch.rand(3, 7, 11, generator=torch.Generator().manual_seed(0)) < 0.2
    events = SpikeEvents.from_dense(dense)
    events.validate(11)
    assert torch.equal(events.to_dense(11).bool(), dense)
    assert torch.equal(events.slice_steps(2, 5).to_dense(11).bool(), dense[:, 2:5])
    some = events.windows([2, 0, 2], [1, 4, 0], 3)
    some.validate(11)
    expected = torch.stack([dense[2, 1:4], dense[0, 4:7], dense[2, 0:3]])
    assert torch.equal(some.to_dense(11).bool(), expected)


@pytest.mark.parametrize(
    ("arch", "sizes", "count"),
    [
        ("rnn", (32, 16, 2), 42_824),
        ("lstm", (256, 64, 2), 1_655_840),
        ("lstm", (128, 64, 64, 64, 32, 2), 849_952),
        ("lstm", (256, 128, 64, 32, 16, 2), 1_836_064),
        ("lstm", (512, 256, 128, 64, 32, 2), 4_718_624),
    ],
)
def test_published_parameter_counts_are_exact(arch, sizes, count) -> None:
    assert StackSpec(arch, sizes, 1278).parameter_count == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "elman"}, "unknown arch 'elman'"),
        ({"hidden_sizes": (8, 3)}, "the last must be 2"),
        ({"hidden_sizes": (513, 2)}, "1 to 512"),
        ({"hidden_sizes": (0, 2)}, "1 to 512"),
        ({"hidden_sizes": ()}, "1 to 512"),
        ({"hidden_sizes": (2,), "head": "linear"}, "needs a recurrent layer"),
        ({"head": "dense"}, "unknown head 'dense'"),
        ({"input_size": 40000}, "input size 40000"),
        ({"voltage_scale": 0.0}, "voltage scale"),
    ],
)
def test_impossible_stacks_are_refused_with_value_and_range(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        StackSpec(**{"arch": "rnn", "hidden_sizes": (8, 2), "input_size": 20, **arguments})


def test_a_device_without_kernels_falls_back_to_torch_and_says_so_once(capsys) -> None:
    providers._tell_once.cache_clear()
    assert [providers.default_provider("meta"), providers.default_provider("meta")] == [
        "torch",
        "torch",
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Triton kernels for torch.float32 on meta here" in line
    assert providers.default_provider("cpu", torch.float16) == "torch"


def test_triton_kernels_asked_for_where_they_cannot_run_say_why() -> None:
    spec = StackSpec("rnn", (3, 2), input_size=9)
    weights, events, _ = problem(spec, 2, 5)
    with pytest.raises(ValueError, match="the Triton kernels cannot run this stack"):
        run_stack(spec, weights, events, provider="triton")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("provider", EVERY)
def test_models_give_what_each_gives_alone(provider, arch, shared) -> None:
    spec = StackSpec(
        arch, (5, 3, 2), input_size=31, head="linear" if arch == "gru" else "recurrent"
    )
    problems = [problem(spec, 3, steps) for steps in (7, 8)]
    events = [events.slice_steps(0, 7) for _, events, _ in problems]
    weights = {
        name: torch.stack([given[name] for given, *_ in problems])
        for name in spec.parameter_shapes()
    }
    state = torch.stack([start for *_, start in problems])
    seen = events[0] if shared else SpikeEvents.concatenate(events)
    outputs, final = run_models(spec, weights, seen, state, provider)
    generator = torch.Generator().manual_seed(7)
    upstream = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    leaves = [value for given, _, start in problems for value in (*given.values(), start)]
    ours = torch.autograd.grad((outputs * upstream).sum() + final.sum(), leaves)
    exact = []
    for model, (given, _, start) in enumerate(problems):
        own = events[0 if shared else model]
        single, last = run_stack(spec, given, own, start, provider)
        assert torch.equal(outputs[model], single)
        assert torch.equal(final[model], last)
        loss = (single * upstream[model]).sum() + last.sum()
        exact += torch.autograd.grad(loss, (*given.values(), start))
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


def test_events_of_another_number_of_sequences_are_refused() -> None:
    spec = StackSpec("rnn", (3, 2), 5)
    weights = {name: torch.zeros(2, *shape) for name, shape in spec.parameter_shapes().items()}
    events = SpikeEvents.from_dense(torch.zeros(3, 1, 5))
    with pytest.raises(ValueError, match="3 sequences, expected 2 for all 2 models or 4"):
        run_models(spec, weights, events, torch.zeros(2, 2, spec.state_size))
