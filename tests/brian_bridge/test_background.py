"""Background drawn within the step: Poisson, the same everywhere, and counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from brian2 import (
    Hz,
    Network,
    SpikeMonitor,
    StateMonitor,
    TimedArray,
    defaultclock,
    ms,
    mV,
    prefs,
    start_scope,
)
from scipy import stats

from helpers.brian import (
    EXCITATORY,
    INPUTS,
    counts_of,
    feed,
    offline,
    random_arrivals,
    random_model,
)
from surrogate import SurrogateNeuron
from surrogate.brian_bridge import Background
from surrogate.brian_bridge.poisson import PoissonChannels
from surrogate.errors import UsageError
from surrogate.kernels import cpu

pytestmark = pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")
STEPS = 40


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target = before


def _drawn(channels: PoissonChannels, rates: np.ndarray, steps: int, inputs: int) -> np.ndarray:
    """Spikes [neurons, steps, inputs] at rates [neurons] or [neurons, steps] Hz."""
    rates = np.broadcast_to(np.reshape(rates, (len(rates), -1)), (len(rates), steps))
    counts = np.zeros((len(rates), steps, inputs), np.int32)
    for step in range(steps):
        channels.add(counts[:, step], np.ascontiguousarray(rates[:, step]), step + 1)
    return counts


@pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
def test_cpp_and_numpy_draw_the_same_spikes() -> None:
    rng = np.random.default_rng(0)
    shares = [
        np.ones(639),
        rng.lognormal(0, 2, 639),
        np.ones(1),
        np.full(5, 1.3),
        np.array([0.0, 1, 0, 2, 0]),
    ]
    for share in shares:
        channels = PoissonChannels(2**63 + 12345, 2, 3, share, 1e-3)
        add = channels.adder()
        for rates in [rng.uniform(0, 400, 50), np.array([0, 1e-9, 30, 200, 3e3, 1e5, 1e9])]:
            for step in (1, 2**35 + 7):
                expected, found = np.zeros((2, len(rates), 700), np.int32)
                channels.add(expected, rates, step)
                add(found, rates, step)
                assert expected.any()
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mean", [0.3, 1.0, 7.0, 30.0, 200.0])
def test_the_number_of_spikes_is_poisson(mean) -> None:
    channels = PoissonChannels(7, 1, 0, np.ones(100), 1e-3)
    rates = np.full(4000, mean * 10)
    counts = np.zeros((4000, 100), np.int32)
    channels.add(counts, rates, 1)
    found = np.bincount(counts.sum(1), minlength=400)
    likely = stats.poisson(mean).pmf(np.arange(len(found)))
    common = likely * 4000 >= 5
    expected = np.append(likely[common], 1 - likely[common].sum()) * 4000
    observed = np.append(found[common], found[~common].sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_channels_have_their_shares_and_nothing_depends_on_anything_else() -> None:
    share, neurons, steps = np.array([1.0, 3, 0, 2, 6]), 20, 2000
    rate = 100.0  # the mean of the channels
    channels = PoissonChannels(3, 1, 0, share, 1e-3)
    counts = _drawn(channels, np.full(neurons, rate), steps, 5)
    expected = rate * 1e-3 * share / share.mean() * neurons * steps
    summed = counts.sum((0, 1))
    assert summed[2] == 0
    assert (np.abs(summed - expected) <= 4 * np.sqrt(expected)).all()
    other = _drawn(PoissonChannels(3, 2, 0, share, 1e-3), np.full(neurons, rate), steps, 5)
    # Trains of a channel, of a neuron, of a stream, and the same shifted by a bin.
    trains = np.concatenate([counts, other], axis=2)[:, :, [0, 1, 3, 4, 5, 6, 8, 9]]
    trains = trains.transpose(0, 2, 1).reshape(-1, steps).astype(float)
    trains = np.concatenate([trains[:, 1:], trains[:, :-1]])
    correlation = np.corrcoef(trains)[np.triu_indices(len(trains), 1)] * np.sqrt(steps - 1)
    assert abs(correlation.std() - 1) < 0.02
    assert np.abs(correlation).max() < 6
    # Intervals between bins with a spike are geometric.
    quiet = np.exp(-rate * 1e-3 * share[1] / share.mean())
    intervals = np.concatenate([np.diff(np.flatnonzero(row)) for row in counts[:, :, 1]])
    lengths = np.arange(1, 12)
    expected = (1 - quiet) * quiet ** (lengths - 1)
    expected = np.append(expected, 1 - expected.sum()) * len(intervals)
    observed = np.bincount(np.minimum(intervals, 12), minlength=13)[1:]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_rates_may_be_of_kinds_channels_neurons_or_times() -> None:
    model = random_model()
    profile = np.arange(EXCITATORY) * 10.0
    of_neurons = np.array([20.0, 0.0, 80.0])
    of_times = np.array([10.0, 300.0])
    of_both = np.array([[10.0, 20, 30], [0, 500, 100]])
    late = np.arange(STEPS) >= 20
    alike, third = np.ones(10), np.ones((3, 1))
    for rate, share, expected in [
        (30 * Hz, alike, 30 * third),
        (profile * Hz, profile, profile.mean() * third),
        (of_neurons[:, None] * Hz, alike, of_neurons[:, None]),
        (TimedArray(of_times * Hz, dt=20 * ms), alike, of_times[late.astype(int)] * third),
        (TimedArray(of_both * Hz, dt=20 * ms), alike, of_both[late.astype(int)].T),
        ("(10 + 290 * int(t >= 20*ms)) * Hz", alike, of_times[late.astype(int)] * third),
    ]:
        cells = SurrogateNeuron(3, model, background=Background(excitatory=rate, seed=4))
        trace = StateMonitor(cells, "v", record=True, dt=1 * ms)
        Network(cells, trace).run((STEPS + 1) * ms)
        counts = _drawn(PoissonChannels(4, 1, 0, share, 1e-3), expected, STEPS, INPUTS)
        assert counts.sum() > 20
        np.testing.assert_allclose(trace.v[:, 1:] / mV, offline(model, counts)[1], atol=1e-3)


def test_background_and_network_spikes_are_alike_but_counted_apart() -> None:
    model = random_model()
    index, ticks = random_arrivals(np.random.default_rng(2), 3 * INPUTS, STEPS, 900)
    background = Background(excitatory=150 * Hz, inhibitory=60 * Hz, seed=2**64 - 1)
    cells = SurrogateNeuron(3, model, background=background)
    trace = StateMonitor(cells, "v", record=True, dt=1 * ms)
    Network(cells, trace, *feed(cells.inputs, index, ticks)).run((STEPS + 1) * ms)
    network = counts_of(index, ticks, 3, STEPS, INPUTS)
    drawn = np.zeros_like(network)
    for group, rate in enumerate([150.0, 60.0]):
        channels = PoissonChannels(2**64 - 1, group + 1, group * EXCITATORY, np.ones(10), 1e-3)
        drawn += _drawn(channels, np.full(3, rate), STEPS, INPUTS)
    both = network + drawn
    assert (network * drawn).any()
    np.testing.assert_allclose(trace.v[:, 1:] / mV, offline(model, both)[1], atol=1e-3)
    assert cells.lost[:].tolist() == np.maximum(both - 1, 0).sum((1, 2)).tolist()
    one_each = np.arange(1, STEPS + 1) % 3, np.arange(STEPS)
    for counts, rates in [(network, cells.input_rates), (drawn, cells.background_rates)]:
        excitatory = counts[one_each][:, :EXCITATORY].sum()
        assert rates["excitatory"] / Hz == pytest.approx(excitatory / EXCITATORY / STEPS * 1e3)


def test_chunks_restored_chunks_and_new_rates_draw_the_same() -> None:
    model = random_model()

    def found(chunks_ms: tuple[float, ...]) -> tuple:
        cells = SurrogateNeuron(3, model, background=Background(excitatory=100 * Hz, seed=1))
        spikes = SpikeMonitor(cells)
        network = Network(cells, spikes)
        for chunk in chunks_ms:
            network.run(chunk * ms)
            network.store()
            network.run(7.7 * ms)
            network.restore()
        cells.background_excitatory = "(50 + 100 * i) * Hz"
        network.run(30 * ms)
        times = np.round(np.asarray(spikes.t / ms), 6).tolist()
        return spikes.i[:].tolist(), times, cells.lost[:].tolist(), cells.hidden_state.tolist()

    whole = found((30.0,))
    assert len(whole[0]) > 10
    assert found((12.4, 0.3, 17.3)) == whole


def test_the_range_of_the_training_is_that_of_network_and_background_together(recwarn) -> None:
    model = random_model(input_rate_hz={"excitatory": [40, 100], "inhibitory": [40, 100]})
    background = Background(excitatory=30 * Hz, inhibitory=30 * Hz)
    cells = SurrogateNeuron(2, model, background=background, name="cells")
    steps = 200
    index, ticks = random_arrivals(np.random.default_rng(1), 2 * INPUTS, steps, 320)
    of_excitatory = index % INPUTS < EXCITATORY
    feeding = feed(cells.inputs, index[of_excitatory], ticks[of_excitatory])
    Network(cells, *feeding).run((steps + 1) * ms)
    (warning,) = [one for one in recwarn if "synapses received" in str(one.message)]
    assert "inhibitory synapses received" in str(warning.message)


def test_wrong_backgrounds_are_named_with_the_cure() -> None:
    model = random_model()
    for rates, words in [
        ({}, ["excitatory=8*Hz"]),
        ({"excitatory": 8}, ["excitatory=8", "8*Hz"]),
        ({"excitatory": -1 * Hz}, ["0 Hz or more"]),
        ({"excitatory": TimedArray([1, 2] * ms, dt=1 * ms)}, ["8*Hz"]),
        ({"excitatory": TimedArray([[1, 2]] * Hz, dt=1 * ms)}, ["2 columns", "3 neurons"]),
        ({"nmda": 8 * Hz}, ["'nmda'", "excitatory or inhibitory"]),
        ({"excitatory": np.ones(7) * Hz}, ["(7,)", "(10,)", "(3, 1)"]),
        ({"excitatory": 8 * Hz, "seed": -1}, ["seed -1"]),
    ]:
        with pytest.raises(UsageError) as caught:
            SurrogateNeuron(3, model, background=Background(**rates))
        assert all(word in str(caught.value) for word in words), caught.value
    cells = SurrogateNeuron(3, model, background=Background(excitatory=8 * Hz), name="cells")
    cells.background_excitatory[1] = -3 * Hz
    with pytest.raises(Exception, match="preparing") as caught_at_run:
        Network(cells).run(1 * ms)
    assert "background_excitatory of neuron 1 is -3 Hz" in str(caught_at_run.value.__cause__)
