"""RecurrentStack: initial weights, torch.nn's names, stepping, errors."""

from __future__ import annotations

import pytest
import torch

from surrogate import RecurrentStack
from surrogate.errors import UsageError
from surrogate.kernels import ARCHITECTURES, SpikeEvents, parse_sizes
from surrogate.kernels.architectures import GRID_ARCHITECTURES


def _events(batch: int, steps: int, inputs: int) -> SpikeEvents:
    generator = torch.Generator().manual_seed(3)
    return SpikeEvents.from_dense(torch.rand(batch, steps, inputs, generator=generator) < 0.1)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("head", ["recurrent", "linear"])
def test_state_dict_has_the_canonical_names_and_shapes(arch, head) -> None:
    stack = RecurrentStack(arch, (8, 4, 2), input_size=20, head=head)
    shapes = {name: tuple(value.shape) for name, value in stack.state_dict().items()}
    assert shapes == stack.spec.parameter_shapes()
    assert stack.parameter_count == sum(p.numel() for p in stack.parameters())


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_state_dicts_move_from_torch_nn_and_back(arch) -> None:
    kind = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[arch]
    theirs = kind(20, 2, batch_first=True)
    stack = RecurrentStack(arch, (2,), input_size=20)
    stack.layers[0].load_state_dict(theirs.state_dict())
    events = _events(3, 9, 20)
    logits, voltage, _ = stack(events)
    expected, _ = theirs(events.to_dense(20))
    torch.testing.assert_close(logits, expected[..., 0])
    torch.testing.assert_close(voltage, expected[..., 1] * 100)
    theirs.load_state_dict(stack.layers[0].state_dict())


def test_initial_biases_are_zero_and_weights_xavier_uniform() -> None:
    stack = RecurrentStack("lstm", (64, 2), input_size=300)
    for name, value in stack.named_parameters():
        if value.dim() == 1:
            assert (value == 0).all(), name
        else:
            bound = (6 / sum(value.shape)) ** 0.5
            assert value.abs().max().item() <= bound
            if value.numel() > 1000:
                assert value.abs().max().item() > 0.98 * bound
                assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_initial_weights_follow_the_generator() -> None:
    one, two = (RecurrentStack("gru", (4, 2), input_size=9) for _ in range(2))
    for stack in (one, two):
        stack.reset_parameters(torch.Generator().manual_seed(5))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("head", ["recurrent", "linear"])
def test_stepping_one_bin_at_a_time_equals_the_whole(arch, head) -> None:
    stack = RecurrentStack(
        arch, (6, 3, 2), 30, head, voltage_scale=10, voltage_offset=-67.7
    ).double()
    events = _events(4, 12, 30)
    logits, voltage, final = stack(events)
    state = stack.initial_state(4)
    for t in range(12):
        logit, volt, state = stack.step(events.slice_steps(t, t + 1), state)
        torch.testing.assert_close(logit, logits[:, t])
        torch.testing.assert_close(volt, voltage[:, t])
    torch.testing.assert_close(state, final)


def test_step_refuses_more_than_one_bin() -> None:
    with pytest.raises(ValueError, match="these have 2"):
        RecurrentStack("rnn", (2,), 5).step(_events(1, 2, 5))


def test_from_spec_builds_the_same_stack() -> None:
    stack = RecurrentStack("gru", (5, 2), 7, "linear", voltage_scale=10, voltage_offset=-60)
    assert RecurrentStack.from_spec(stack.spec).spec == stack.spec


def test_wrong_arguments_are_usage_errors_that_name_the_value() -> None:
    with pytest.raises(UsageError, match="unknown arch 'transformer'"):
        RecurrentStack("transformer", (8, 2), 20)
    with pytest.raises(UsageError, match="8-4 end in 4"):
        RecurrentStack("rnn", (8, 4), 20)
    with pytest.raises(UsageError, match="'64_2x'"):
        parse_sizes("64_2x")
    assert parse_sizes("256-64-2") == (256, 64, 2)


def test_best_sizes_of_the_blog() -> None:
    assert {name: ARCHITECTURES[name].hidden_sizes for name in GRID_ARCHITECTURES} == {
        "rnn": (32, 16, 2),
        "gru": (256, 64, 2),
        "lstm": (256, 64, 2),
    }
