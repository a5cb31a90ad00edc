"""Plans and predictions of the stepwise kernels; and, on a GPU, the kernels themselves."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from surrogate.kernels import SpikeEvents, StackSpec
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.triton import configurations, why_not
from surrogate.kernels.triton.chips import CHIPS, chip_of
from surrogate.kernels.triton.offline.cost import predict
from surrogate.kernels.triton.step.packing import PackedLayout
from surrogate.kernels.triton.step.plan import plan_step, step_candidates, step_seconds
from surrogate.kernels.triton.step.stepper import TritonStepper

NEURONS = (1, 7, 100, 1000, 30_000, 1 << 20)
gpu = pytest.mark.gpu


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("spec", configurations(), ids=lambda spec: spec.name)
def test_programs_that_meet_fit_on_the_gpu_at_once(spec, chip) -> None:
    for neurons in NEURONS:
        for plan in step_candidates(spec, neurons, chip):
            programs = -(-neurons // plan.neurons) * plan.split
            assert plan.split == 1 or programs <= chip.processors


@pytest.mark.parametrize("spec", configurations(), ids=lambda spec: spec.name)
def test_predicted_time_grows_with_neurons_and_falls_with_a_better_gpu(spec) -> None:
    times = [predict(spec, "step", neurons=neurons) for neurons in NEURONS]
    assert times == sorted(times)
    for mode in ("train", "evaluate"):
        older, newer = (predict(spec, mode, chip=chip) for chip in ("A100", "H200"))
        assert 0 < newer < older
    assert predict(spec, "evaluate") < predict(spec, "train")


def test_plan_adapts_to_the_work() -> None:
    wide, small = (
        StackSpec("lstm", (512, 256, 128, 64, 32, 2), 1278),
        StackSpec("rnn", (32, 16, 2), 1278),
    )
    assert plan_step(wide, 1).split > 1  # one multiprocessor would read 8 MB of weights alone
    assert plan_step(small, 1).split == 1  # a barrier would cost more than the work
    assert plan_step(wide, 1 << 20).neurons > plan_step(wide, 100).neurons
    own = plan_step(wide, 1000, own_weights=True)
    assert (own.neurons, own.split) == (1, 1)


def test_no_prediction_beats_reading_and_writing_the_states() -> None:
    spec, chip = StackSpec("rnn", (32, 16, 2), 1278), CHIPS["H200"]
    neurons = 1 << 20
    floor = neurons * 8 * spec.state_size / chip.memory_bytes_per_second
    for plan in step_candidates(spec, neurons, chip):
        assert step_seconds(spec, neurons, plan, chip) > floor


def test_unknown_modes_and_chips_are_refused_by_name() -> None:
    spec = StackSpec("rnn", (2,), 1278)
    with pytest.raises(ValueError, match="unknown chip 'B200': expected one of A100, H100, H200"):
        predict(spec, "step", chip="B200")
    with pytest.raises(ValueError, match="unknown mode 'infer'"):
        predict(spec, "infer")


@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_packed_parts_are_aligned_and_do_not_overlap(arch, head) -> None:
    spec = StackSpec(arch, (17, 3, 2), 63, head)
    layout = PackedLayout.of(spec, plan_step(spec, 1000))
    by_layer = [(layer.w_in, layer.w_hidden, layer.bias) for layer in layout.layers]
    starts = [*itertools.chain(*by_layer), *layout.head]
    assert starts == sorted(set(starts))
    assert all(start % 32 == 0 for start in starts)
    assert layout.size >= spec.parameter_count - 2 * spec.gates * sum(spec.recurrent_sizes)


def test_without_a_gpu_the_stepper_says_why() -> None:
    spec = StackSpec("rnn", (3, 2), 5)
    weights = {name: torch.zeros(shape) for name, shape in spec.parameter_shapes().items()}
    if why_not("cpu") is None:
        pytest.skip("Triton interprets")
    with pytest.raises(ValueError, match="the Triton kernels cannot run this stack: "):
        TritonStepper(spec, weights, 1)


def test_chip_of_the_cpu_is_the_default_one() -> None:
    assert chip_of(torch.device("cpu")) == CHIPS["H200"]


def _need_gpu() -> None:
    if reason := why_not("cuda"):
        pytest.skip(reason)


def _on_gpu(spec, neurons, steps, own_weights=False):
    generator = torch.Generator().manual_seed(neurons)
    lead = (neurons,) if own_weights else ()
    weights = {
        name: torch.randn(*lead, *shape, generator=generator, dtype=torch.float64) * 0.05
        for name, shape in spec.parameter_shapes().items()
    }
    active = torch.rand(neurons, steps, spec.input_size, generator=generator) < 0.05
    state = torch.randn(neurons, spec.state_size, generator=generator, dtype=torch.float64)
    return {name: value.cuda() for name, value in weights.items()}, active.cuda(), state.cuda()


def _bins(active):
    return [SpikeEvents.from_dense(active[:, t : t + 1]) for t in range(active.shape[1])]


@gpu
@pytest.mark.parametrize("neurons", [1, 5, 100, 1000, 9001])
@pytest.mark.parametrize("spec", configurations(), ids=lambda spec: spec.name)
def test_steps_on_a_gpu_equal_the_reference(spec, neurons) -> None:
    _need_gpu()
    weights, active, state = _on_gpu(spec, neurons, 3)
    outputs, final = run_stack_reference(spec, weights, SpikeEvents.from_dense(active), state)
    stepper = TritonStepper(spec, weights, neurons, state=state.float())
    for t, events in enumerate(_bins(active)):
        stepper.step(events.channel, events.row_ptr)
        assert (stepper.outputs - outputs[:, t]).abs().max() < 2e-5
    assert (stepper.state - final).abs().max() < 2e-5
    stepper.check()


@gpu
def test_neurons_with_their_own_weights_on_a_gpu() -> None:
    _need_gpu()
    spec = StackSpec("gru", (33, 5, 2), 127, "linear")
    weights, active, state = _on_gpu(spec, 6, 1, own_weights=True)
    stepper = TritonStepper(spec, weights, 6, state=state.float())
    events = SpikeEvents.from_dense(active)
    stepper.step(events.channel, events.row_ptr)
    for n in range(6):
        own = {name: value[n] for name, value in weights.items()}
        alone = SpikeEvents.from_dense(active[n : n + 1])
        outputs, _ = run_stack_reference(spec, own, alone, state[n : n + 1])
        assert (stepper.outputs[n] - outputs[0, 0]).abs().max() < 2e-5


@gpu
@pytest.mark.parametrize(("sizes", "neurons"), [((32, 16, 2), 1000), ((256, 64, 2), 1)])
def test_replayed_graph_equals_calls_and_sees_new_events(sizes, neurons) -> None:
    _need_gpu()
    spec = StackSpec("lstm", sizes, 127)
    weights, active, state = _on_gpu(spec, neurons, 4)
    called = TritonStepper(spec, weights, neurons, state=state.float())
    replayed = TritonStepper(spec, weights, neurons)
    channel = torch.zeros(neurons * 127, dtype=torch.int16, device="cuda")
    row_ptr = torch.zeros(neurons + 1, dtype=torch.int32, device="cuda")
    replayed.step(channel, row_ptr)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.step(channel, row_ptr)
    replayed.state.copy_(state)
    for events in _bins(active):
        called.step(events.channel, events.row_ptr)
        channel[: events.channel.numel()] = events.channel
        row_ptr.copy_(events.row_ptr)
        graph.replay()
        assert torch.equal(replayed.outputs, called.outputs)
    assert torch.equal(replayed.state, called.state)
    replayed.check()


@gpu
def test_counts_on_a_gpu_equal_events() -> None:
    _need_gpu()
    spec = StackSpec("lstm", (32, 16, 2), 1278)
    weights, active, state = _on_gpu(spec, 300, 3)
    by_events = TritonStepper(spec, weights, 300, state=state.float())
    by_counts = TritonStepper(spec, weights, 300, state=state.float())
    lost = torch.zeros(300, dtype=torch.int64, device="cuda")
    for t, events in enumerate(_bins(active)):
        by_events.step(events.channel, events.row_ptr)
        counts = 2 * active[:, t].int()
        by_counts.step_counts(counts, lost)
        assert not counts.any()
        assert torch.equal(by_counts.outputs, by_events.outputs)
    assert torch.equal(lost, active.sum((1, 2)))
