"""Bins, steps and spikes of a surrogate in a Brian2 network come at the times they should."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from brian2 import (
    Network,
    NeuronGroup,
    SpikeGeneratorGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    defaultclock,
    ms,
    mV,
    prefs,
    start_scope,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.brian import INPUTS, counts_of, feed, offline, random_arrivals, random_model
from surrogate import SurrogateNeuron
from surrogate.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target = before
    defaultclock.dt = 0.1 * ms


def _traces(cells: SurrogateNeuron, index, ticks, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Voltage in mV and probability of each bin [N, steps], read where docs/brian2.md says."""
    monitor = StateMonitor(cells, ["v", "p"], record=True, dt=1 * ms)
    Network(cells, monitor, *feed(cells.inputs, index, ticks)).run((steps + 1) * ms)
    return monitor.v[:, 1:] / mV, monitor.p[:, 1:]


@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-12), ("float32", 1e-3)])
def test_online_equals_offline_row_for_row(arch, head, precision, bound) -> None:
    model = random_model(arch, head=head)
    index, ticks = random_arrivals(np.random.default_rng(1), 3 * INPUTS, 60, 900)
    cells = SurrogateNeuron(3, model, precision=precision)
    voltage, probability = _traces(cells, index, ticks, 60)
    logits, expected = offline(model, counts_of(index, ticks, 3, 60, INPUTS))
    assert voltage.std() > 0.1  # a model that ignored its input would pass too
    assert np.abs(voltage - expected).max() <= bound
    assert np.abs(probability - 1 / (1 + np.exp(-logits))).max() <= bound


def test_voltage_rests_until_the_first_bin_is_closed() -> None:
    cells = SurrogateNeuron(2, random_model())
    monitor = StateMonitor(cells, ["v", "p"], record=True)
    Network(cells, monitor).run(2 * ms)
    rests = np.asarray(monitor.t / ms) < 0.99
    np.testing.assert_allclose(monitor.v[:, rests] / mV, -76.0)
    assert (monitor.p[:, rests] == 0).all()
    assert (monitor.v[:, ~rests] / mV > -75).all()


@pytest.mark.parametrize(
    ("time_ms", "bin_"), [(2.9, 2), (3.0, 3), (3.9, 3), (4.0, 4), (0.0, 0), (0.9, 0), (1.0, 1)]
)
def test_an_arrival_lands_in_the_bin_of_its_time(time_ms, bin_) -> None:
    model = random_model("rnn")
    index, ticks = np.array([7]), np.array([round(time_ms * 10)])
    voltage, _ = _traces(SurrogateNeuron(1, model), index, ticks, 8)
    counts = np.zeros((1, 8, INPUTS), np.int64)
    counts[0, bin_, 7] = 1
    np.testing.assert_allclose(voltage, offline(model, counts)[1], atol=1e-3)
    elsewhere = offline(model, np.roll(counts, 1, axis=1))[1]
    assert np.abs(voltage - elsewhere).max() > 0.05


def test_random_arrival_times_land_in_their_bins() -> None:
    model = random_model("gru")
    cells = SurrogateNeuron(2, model)
    monitor = StateMonitor(cells, "v", record=True, dt=1 * ms)
    source, synapses = feed(cells.inputs, np.array([0]), np.array([0]))
    network = Network(cells, monitor, source, synapses)
    network.store()

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.sets(st.tuples(st.integers(0, 2 * INPUTS - 1), st.integers(0, 119)), min_size=1))
    def lands(arrivals) -> None:
        index, ticks = np.array(sorted(arrivals)).T
        network.restore()
        source.set_spikes(index, ticks * 0.1 * ms)
        network.run(13 * ms)
        counts = counts_of(index, ticks, 2, 12, INPUTS)
        np.testing.assert_allclose(monitor.v[:, 1:] / mV, offline(model, counts)[1], atol=1e-3)
        assert cells.lost[:].tolist() == np.maximum(counts - 1, 0).sum((1, 2)).tolist()

    lands()


def test_synaptic_delays_to_the_inputs_shift_arrivals() -> None:
    model = random_model()
    cells = SurrogateNeuron(1, model)
    source = SpikeGeneratorGroup(1, [0], [2.5] * ms)
    synapses = Synapses(source, cells.inputs, on_pre="x_post += 1")
    synapses.connect(i=[0, 0, 0], j=[0, 1, 2])
    synapses.delay = [0.4, 0.5, 1.5] * ms  # 2.9, 3.0 and 4.0 ms
    monitor = StateMonitor(cells, "v", record=True, dt=1 * ms)
    Network(cells, source, synapses, monitor).run(9 * ms)
    counts = np.zeros((1, 8, INPUTS), np.int64)
    counts[0, [2, 3, 4], [0, 1, 2]] = 1
    np.testing.assert_allclose(monitor.v[:, 1:] / mV, offline(model, counts)[1], atol=1e-3)


@pytest.mark.parametrize("dt_ms", [0.05, 0.1, 1.0])
def test_spikes_come_at_the_steps_and_delays_from_them_are_exact(dt_ms) -> None:
    defaultclock.dt = dt_ms * ms
    model = random_model(logit=-5.0, refractory_bins=3)  # spikes whenever it may
    cells = SurrogateNeuron(2, model)
    target = NeuronGroup(4, "y : 1")
    synapses = Synapses(cells, target, on_pre="y_post += 1")
    synapses.connect(i=[0, 0, 0, 0], j=[0, 1, 2, 3])
    delays = np.array([0.3, 0.5, 0.7, 2.0]) if dt_ms < 1 else np.array([0.0, 1, 2, 3])
    synapses.delay = delays * ms
    spikes, monitor = SpikeMonitor(cells), StateMonitor(target, "y", record=True, when="end")
    Network(cells, target, synapses, spikes, monitor).run(9 * ms)
    np.testing.assert_allclose(spikes.spike_trains()[0] / ms, [1, 4, 7])
    for train, delay in zip(monitor.y, delays, strict=True):
        came = np.asarray(monitor.t / ms)[1:][np.diff(train) > 0]
        expected = np.array([1, 4, 7]) + delay
        np.testing.assert_allclose(came, expected[expected < 9 - dt_ms / 2])


def test_time_steps_that_divide_the_bin_agree() -> None:
    model = random_model()
    index, ticks = random_arrivals(np.random.default_rng(3), 2 * INPUTS, 50, 600)
    ticks = ticks // 10 * 10  # at whole milliseconds, which all time steps can hit
    index, ticks = np.unique(np.stack([ticks, index]), axis=1)[::-1]
    results = []
    for dt_ms in (0.05, 0.1, 0.25, 1.0):
        defaultclock.dt = dt_ms * ms
        cells = SurrogateNeuron(2, model)
        spikes, monitor = SpikeMonitor(cells), StateMonitor(cells, "v", record=True, dt=1 * ms)
        Network(cells, spikes, monitor, *feed(cells.inputs, index, ticks)).run(50 * ms)
        times = np.round(np.asarray(spikes.t / ms), 6)
        results.append((monitor.v[:].copy(), times.tolist(), spikes.i[:].tolist()))
    assert len(results[0][1]) > 5
    for voltage, times, neurons in results[1:]:
        np.testing.assert_array_equal(voltage, results[0][0])
        assert (times, neurons) == results[0][1:]


@pytest.mark.parametrize(("dt_ms", "shown"), [(0.3, "300. us"), (2.0, "2. ms"), (0.15, "150. us")])
def test_time_steps_that_do_not_divide_the_bin_are_refused(dt_ms, shown) -> None:
    defaultclock.dt = dt_ms * ms
    cells = SurrogateNeuron(1, random_model(), name="cells")
    with pytest.raises(Exception, match="preparing") as caught:
        Network(cells).run(10 * ms)
    cause = caught.value.__cause__
    assert isinstance(cause, UsageError)
    assert "1. ms" in str(cause)
    assert shown in str(cause)
    assert "cells" in str(cause)


def _recorded(model, index, ticks, chunks_ms, *, restore_at: int | None = None):
    """Spikes and traces of a network run in chunks, stored and restored after one of them."""
    cells = SurrogateNeuron(2, model, name="cells")
    spikes, trace = SpikeMonitor(cells), StateMonitor(cells, ["v", "p"], record=True)
    feeding = feed(cells.inputs, index, ticks)
    feeding[1].delay = "0.7*ms"
    network = Network(cells, spikes, trace, *feeding)
    for number, chunk in enumerate(chunks_ms):
        network.run(chunk * ms)
        if number == restore_at:
            network.store("here")
            network.run(5.3 * ms)  # in another direction: what follows must not show it
            cells.inputs.x = 3
            network.restore("here")
    times = np.round(np.asarray(spikes.t / ms), 6).tolist()
    state = cells.hidden_state
    return times, spikes.i[:].tolist(), trace.v[:], trace.p[:], cells.lost[:], state


def test_chunks_and_restored_chunks_equal_the_whole() -> None:
    model = random_model()
    index, ticks = random_arrivals(np.random.default_rng(4), 2 * INPUTS, 40, 900)
    whole = _recorded(model, index, ticks, [40.0])
    assert len(whole[0]) > 5
    for chunks_ms, restore_at in [
        ((13.0, 27.0), None),
        ((0.3, 0.3, 8.9, 30.5), None),
        ((13.0, 27.0), 0),  # on the edge of a bin
        ((12.4, 27.6), 0),  # in the middle of one, with spikes under way
        ((0.3, 12.4, 27.3), 1),
    ]:
        parts = _recorded(model, index, ticks, chunks_ms, restore_at=restore_at)
        assert parts[:2] == whole[:2]
        for part, expected in zip(parts[2:], whole[2:], strict=True):
            np.testing.assert_array_equal(part, expected)


def test_a_group_that_joins_late_closes_no_bin_it_was_not_in() -> None:
    model = random_model()
    network = Network(NeuronGroup(1, "y : 1"))
    network.run(5 * ms)
    cells = SurrogateNeuron(1, model)
    network.add(cells)
    network.run(4 * ms)  # steps at 6, 7, 8 ms
    expected = offline(model, np.zeros((1, 3, INPUTS), np.int64))[1][0, -1]
    np.testing.assert_allclose(cells.v / mV, [expected], atol=1e-3)


def test_an_inactive_group_stands_still_and_is_deaf() -> None:
    model = random_model()
    cells = SurrogateNeuron(1, model)
    index, ticks = np.array([3, 4, 5]), np.array([5, 35, 75])
    spikes = SpikeMonitor(cells)
    network = Network(cells, spikes, *feed(cells.inputs, index, ticks))
    network.run(3 * ms)
    before, count = cells.hidden_state, spikes.num_spikes
    cells.active = False
    network.run(4 * ms)
    np.testing.assert_array_equal(cells.hidden_state, before)
    assert spikes.num_spikes == count
    cells.active = True
    network.run(0.5 * ms)
    np.testing.assert_array_equal(cells.hidden_state, before)  # it was not in the bin before 7 ms
    network.run(4 * ms)  # steps at 8, 9, 10, 11 ms
    counts = np.zeros((1, 6, INPUTS), np.int64)
    counts[0, [0, 2], [3, 5]] = 1  # steps at 1, 2 | 8, ...; the arrival at 3.5 ms is dropped
    np.testing.assert_allclose(cells.v / mV, offline(model, counts)[1][:, -1], atol=1e-3)


def test_lost_counts_what_the_model_cannot_see() -> None:
    index, ticks = random_arrivals(np.random.default_rng(8), 3 * INPUTS, 30, 2000)
    counts = counts_of(index, ticks, 3, 30, INPUTS)
    cells = SurrogateNeuron(3, random_model())
    Network(cells, *feed(cells.inputs, index, ticks)).run(31 * ms)
    expected = np.maximum(counts - 1, 0).sum((1, 2))
    assert expected.min() > 50
    assert cells.lost[:].tolist() == expected.tolist()
    assert not torch.from_numpy(cells.inputs.x[:]).any()
