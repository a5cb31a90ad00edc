"""Recorded spikes, in arrays or a SONATA file, reach their channels in their bins."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import pytest
from brian2 import Hz, Network, StateMonitor, defaultclock, ms, mV, prefs, start_scope

from helpers.brian import INPUTS, counts_of, feed, offline, random_arrivals, random_model
from surrogate import SurrogateNeuron
from surrogate.brian_bridge import Background, RecordedSpikes, sonata_spikes
from surrogate.errors import DataError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")
STEPS = 30


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target = before


def _voltage(cells: SurrogateNeuron, *others) -> np.ndarray:
    trace = StateMonitor(cells, "v", record=True, dt=1 * ms)
    network = Network(cells, trace, *others)
    network.run(12.4 * ms)
    network.run((STEPS + 1 - 12.4) * ms)
    return trace.v[:, 1:] / mV


@pytest.mark.parametrize("period_ms", [None, 8])
def test_recorded_spikes_are_those_of_a_generator_with_synapses(period_ms) -> None:
    model = random_model()
    duration = period_ms or STEPS
    index, ticks = random_arrivals(np.random.default_rng(1), 3 * INPUTS, duration, 20 * duration)
    shuffled = np.random.default_rng(2).permutation(len(index))
    period = None if period_ms is None else period_ms * ms
    recorded = RecordedSpikes(
        index[shuffled] // INPUTS,
        index[shuffled] % INPUTS,
        ticks[shuffled] * 0.1 * ms,
        period=period,
    )
    cells = SurrogateNeuron(3, model, recorded=recorded)
    counts = counts_of(index, ticks, 3, duration, INPUTS)
    counts = np.concatenate([counts] * (STEPS // duration + 1), axis=1)[:, :STEPS]
    np.testing.assert_allclose(_voltage(cells), offline(model, counts)[1], atol=1e-3)
    assert cells.lost[:].tolist() == np.maximum(counts - 1, 0).sum((1, 2)).tolist()
    assert cells.background_rates["excitatory"] > 0 * Hz
    assert cells.input_rates["excitatory"] == 0 * Hz


def test_recorded_network_and_background_spikes_add_up() -> None:
    model = random_model()
    index, ticks = random_arrivals(np.random.default_rng(3), INPUTS, STEPS, 300)
    half = len(index) // 2
    background = Background(inhibitory=100 * Hz, seed=6)
    recorded = RecordedSpikes(0, index[:half], ticks[:half] * 0.1 * ms)
    mixed = SurrogateNeuron(1, model, background=background, recorded=recorded)
    found = _voltage(mixed, *feed(mixed.inputs, index[half:], ticks[half:]))
    whole = SurrogateNeuron(1, model, background=background)
    expected = _voltage(whole, *feed(whole.inputs, index, ticks))
    np.testing.assert_array_equal(found, expected)
    assert mixed.lost[0] == whole.lost[0] > 0


def test_a_sonata_file_is_read(tmp_path) -> None:
    path = tmp_path / "spikes.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("spikes/thalamus")
        group["node_ids"] = np.array([3, 1, 3], np.uint64)
        group["timestamps"] = np.array([0.5, 2.0, 7.25])
        group["timestamps"].attrs["units"] = "ms"
    for population in (None, "thalamus"):
        nodes, times = sonata_spikes(path, population)
        assert nodes.tolist() == [3, 1, 3]
        np.testing.assert_allclose(times / ms, [0.5, 2.0, 7.25])
    with pytest.raises(UsageError, match="'cortex': expected thalamus"):
        sonata_spikes(path, "cortex")
    with h5py.File(path, "a") as file:
        file.copy("spikes/thalamus", "spikes/cortex")
        file["spikes/cortex/timestamps"].attrs["units"] = "s"
    with pytest.raises(UsageError, match="cortex or thalamus"):
        sonata_spikes(path)
    with pytest.raises(DataError, match="'s'"):
        sonata_spikes(path, "cortex")
    path.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="no SONATA spike file"):
        sonata_spikes(path)
    with pytest.raises(DataError, match=r"missing\.h5"):
        sonata_spikes(tmp_path / "missing.h5")


def test_wrong_recordings_are_named_with_the_cure() -> None:
    model = random_model()
    for arguments, options, words in [
        (([0], [1], [2]), {}, ["time=[2]", "20*ms"]),
        (([0], [1], [-1] * ms), {}, ["negative", "0*ms"]),
        (([0, 1], [1], [1, 2, 3] * ms), {}, ["(2,)", "(3,)"]),
        (([4], [1], [1] * ms), {}, ["neuron 4"]),
        (([0], [12], [1] * ms), {"group": "excitatory"}, ["excitatory channel 12"]),
        (([0], [1], [7.2] * ms), {"period": 7 * ms}, ["period=7. ms", "8. ms"]),
        (([0], [1], [7.2] * ms), {"period": 8.5 * ms}, ["whole multiple"]),
    ]:
        with pytest.raises(UsageError) as caught:
            SurrogateNeuron(2, model, recorded=RecordedSpikes(*arguments, **options))
        assert all(word in str(caught.value) for word in words), caught.value
