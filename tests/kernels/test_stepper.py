"""Stepwise inference equals the stack run over whole sequences, with every provider."""

from __future__ import annotations

import copy
import os
import signal

import numpy as np
import pytest
import torch
from torch import Tensor

from surrogate.kernels import SpikeEvents, StackSpec, cpu, run_stack
from surrogate.kernels.stepper import Stepper

ARCHITECTURES = ("rnn", "gru", "lstm")
STEPS = 7

needs_kernels = pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
each_provider = pytest.mark.parametrize(
    "provider", ["reference", pytest.param("cpu", marks=needs_kernels)]
)


def _weights(spec: StackSpec, *leading: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(*leading, *shape, generator=generator, dtype=torch.float64) * 0.4
        for name, shape in spec.parameter_shapes().items()
    }


def _counts(spec: StackSpec, neurons: int) -> np.ndarray:
    rng = np.random.default_rng(neurons)
    return rng.poisson(0.1, (STEPS, neurons, spec.input_size)).astype(np.int32)


def _whole(
    spec: StackSpec, weights: dict[str, Tensor], counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    dense = torch.from_numpy(counts > 0).transpose(0, 1)
    outputs, state = run_stack(spec, weights, SpikeEvents.from_dense(dense), provider="reference")
    return outputs.transpose(0, 1).numpy(), state.numpy()


@each_provider
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize("threads", [1, 3])
# Sizes around whole vectors of 4, 8 and 16 numbers; 101 neurons are not a whole number of blocks.
@pytest.mark.parametrize(("sizes", "neurons"), [((17, 9, 2), 1), ((5, 2), 13), ((33, 48, 2), 101)])
def test_steps_equal_the_whole_sequence(provider, arch, head, threads, sizes, neurons) -> None:
    spec = StackSpec(arch, sizes, input_size=70, head=head)
    weights, counts = _weights(spec), _counts(spec, neurons)
    expected, final = _whole(spec, weights, counts)
    stepper = Stepper(spec, weights, neurons, dtype=np.float64, provider=provider, threads=threads)
    lost = np.zeros(neurons, np.int64)
    for t in range(STEPS):
        arrived = counts[t].copy()
        stepper.step_counts(arrived, lost)
        np.testing.assert_allclose(stepper.outputs, expected[t], rtol=0, atol=1e-13)
        assert not arrived.any()
    np.testing.assert_allclose(stepper.state, final, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(lost, np.maximum(counts - 1, 0).sum((0, 2)))


@each_provider
@pytest.mark.parametrize("threads", [1, 2])
def test_each_neuron_can_have_its_own_weights(provider, threads) -> None:
    spec = StackSpec("gru", (6, 2), input_size=40)
    weights, counts = _weights(spec, 5), _counts(spec, 5)
    stepper = Stepper(spec, weights, 5, dtype=np.float64, provider=provider, threads=threads)
    for t in range(STEPS):
        stepper.step_counts(counts[t].copy(), np.zeros(5, np.int64))
    for n in range(5):
        own = {name: weight[n] for name, weight in weights.items()}
        _, final = _whole(spec, own, counts[:, n : n + 1])
        np.testing.assert_allclose(stepper.state[n], final[0], rtol=0, atol=1e-13)


@each_provider
def test_float32_steps_stay_within_rounding_in_the_callers_arrays(provider) -> None:
    spec = StackSpec("lstm", (32, 16, 2), 1278)
    weights, counts = _weights(spec), _counts(spec, 3)
    expected, _ = _whole(spec, weights, counts)
    state, outputs = np.zeros((3, spec.state_size), np.float32), np.zeros((3, 2), np.float32)
    stepper = Stepper(spec, weights, 3, state=state, outputs=outputs, provider=provider)
    for t in range(STEPS):
        active = counts[t] > 0
        row_ptr = np.concatenate([[0], active.sum(1).cumsum()]).astype(np.int32)
        stepper.step(active.nonzero()[1].astype(np.int16), row_ptr)
        np.testing.assert_allclose(outputs, expected[t], rtol=0, atol=3e-6)
    assert state.any()


@needs_kernels
@pytest.mark.parametrize(
    ("channel", "row_ptr", "message"),
    [
        ([1, 20], [0, 2], "outside 0..19"),
        ([1, -1], [0, 2], "outside 0..19"),
        ([1, 2], [0, 3], "row_ptr must rise"),
        ([1, 2], [1, 0], "row_ptr must rise"),
        ([1, 2], [0, 1, 2], "row_ptr holds 12 bytes"),
    ],
)
def test_events_that_do_not_fit_are_refused_before_anything_is_read(
    channel, row_ptr, message
) -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    stepper = Stepper(spec, _weights(spec), 1, provider="cpu")
    with pytest.raises(ValueError, match=message):
        stepper.step(np.array(channel, np.int16), np.array(row_ptr, np.int32))
    with pytest.raises(ValueError, match="as 'i' of 4 bytes"):
        stepper.step(np.array([1], np.int16), np.array([0, 1], np.float32))


@needs_kernels
@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        (np.zeros((4, 20), np.float32), np.zeros(4, np.int64)),
        (np.zeros((4, 20), np.uint32), np.zeros(4, np.int64)),
        (np.zeros((20, 4), np.int32), np.zeros(4, np.int64)),
        (np.zeros((4, 20), np.int32), np.zeros(4)),
        (np.zeros((5, 20), np.int32), np.zeros(4, np.int64)),
        (np.zeros((4, 20), np.int32), np.zeros(5, np.int64)),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_counts_of_another_type_or_shape_are_refused(counts, lost, threads) -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    stepper = Stepper(spec, _weights(spec), 4, provider="cpu", threads=threads)
    with pytest.raises(ValueError, match="expected"):
        stepper.step_counts(counts, lost)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_events_that_do_not_fit_advance_no_neuron(threads) -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    stepper = Stepper(spec, _weights(spec), 4, provider="cpu", threads=threads)
    row_ptr = np.arange(5, dtype=np.int32)
    with pytest.raises(ValueError, match="outside"):
        stepper.step(np.array([1, 2, 3, 20], np.int16), row_ptr)
    assert not stepper.state.any()


@needs_kernels
def test_threads_step_in_a_forked_child_too() -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    stepper = Stepper(spec, _weights(spec), 4, provider="cpu", threads=2)
    counts, lost = np.ones((4, 20), np.int32), np.zeros(4, np.int64)
    stepper.step_counts(counts, lost)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        stepper.step_counts(counts, lost)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_stepper_is_not_copied_and_its_arrays_are_not_replaced() -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    stepper = Stepper(spec, _weights(spec), 1)
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(stepper)
    with pytest.raises(AttributeError):
        stepper.state = np.zeros((1, 6), np.float32)


def test_arrays_and_weights_of_another_shape_are_refused() -> None:
    spec = StackSpec("rnn", (4, 2), input_size=20)
    with pytest.raises(ValueError, match=r"state is float64 .* expected a C-contiguous float32"):
        Stepper(spec, _weights(spec), 2, state=np.zeros((2, 6)))
    with pytest.raises(ValueError, match=r"layers.0.weight_ih_l0 has shape \(3, 4, 20\)"):
        Stepper(spec, _weights(spec, 3), 2)
    with pytest.raises(ValueError, match="unknown provider 'gpu'"):
        Stepper(spec, _weights(spec), 2, provider="gpu")
