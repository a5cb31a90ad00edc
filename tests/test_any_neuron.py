"""A neuron of another kind, from lists of spikes to a Brian2 network.

20 channels in three groups, bins of 0.5 ms, no dendritic segments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brian2 import (
    Hz,
    Network,
    SpikeGeneratorGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    ms,
    prefs,
)

import surrogate
from surrogate import SurrogateNeuron, datasets
from surrogate.brian_bridge import warm_state
from surrogate.cli.main import main
from surrogate.datasets import ChannelGroup, Channels, Header, Trial
from surrogate.errors import UsageError
from surrogate.evaluation.protocols import Protocol, run_protocol
from surrogate.evaluation.spike_trains import coincidences
from surrogate.kernels import SpikeEvents
from surrogate.model.prediction import predict_events

REPOSITORY = Path(__file__).resolve().parents[1]
DT, BINS = 0.5, 600
CHANNELS = Channels(
    [
        ChannelGroup("AMPA", 10, kind="excitatory"),
        ChannelGroup("GABA", 6, kind="inhibitory"),
        ChannelGroup("5-HT", 4, kind="modulatory"),
    ]
)
HEADER = Header(BINS, CHANNELS, DT)


def _trial(rng: np.random.Generator, split: str) -> Trial:
    """A leaky integrator whose output spikes are exact to a hundredth of a millisecond."""
    active = rng.random((BINS, 20)) < 0.04
    gain = np.repeat([1.0, -0.8, 0.1], [10, 6, 4])
    voltage, spikes, v = np.empty(BINS), [], 0.0
    for t in range(BINS):
        voltage[t] = -70 + 5 * v
        v = 0.93 * v + active[t] @ gain
        if v > 2.5:
            spikes.append((t + 1) * DT + rng.uniform(-0.2, 0))
            v = 0.0
    bins, channel = np.nonzero(active)
    return Trial.from_spikes(
        HEADER,
        channel,
        bins * DT + rng.uniform(0, DT - 0.01, bins.size),
        spike_time_ms=np.round(spikes, 2),
        voltage_mV={"soma": voltage},
        split=split,
    )


def _run(*arguments: object) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue().splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the neuron, and a run of two epochs on it."""
    folder = tmp_path_factory.mktemp("any neuron")
    rng = np.random.default_rng(7)
    for split, count in (("train", 10), ("valid", 3), ("test", 3)):
        datasets.write(folder / f"{split}.h5", HEADER, [_trial(rng, split) for _ in range(count)])
    parts = [folder / f"{split}.h5" for split in datasets.SPLITS]
    _run("data", "convert", *parts, "--out", folder / "all.h5", "--json")
    small = ["windows_per_epoch=32", "batch_size=4", "window_ms=100", "burn_in_ms=20"]
    settings = [part for each in small for part in ("--set", each)]
    chosen = ("--arch", "gru", "--hidden", "8-2", "--epochs", "2", "--no-plots", "--json")
    _run("train", "--data", folder / "all.h5", "--out", folder / "run", *chosen, *settings)
    return folder


def test_the_data_file_keeps_groups_bins_and_exact_times(folder: Path) -> None:
    given = _trial(np.random.default_rng(7), "train")
    found = _run("data", "info", folder / "all.h5", "--json")
    assert (found["dt_ms"], found["n_steps"], found["duration_ms"]) == (0.5, 600, 300.0)
    assert [(one["name"], one["size"], one["sign"]) for one in found["groups"]] == [
        ("AMPA", 10, 1),
        ("GABA", 6, -1),
        ("5-HT", 4, 0),
    ]
    assert found["segment_columns"] == []
    assert _run("data", "validate", folder / "all.h5", "--json")["valid"]
    with datasets.open(folder / "all.h5") as data:
        times = data.spike_times(0)
        assert times.tolist() == given.spike_time_ms.tolist()  # float32 would change most
        assert (times != times.astype(np.float32)).any()
        labels = np.flatnonzero(data.spikes([0], [0], BINS)[0])
        # A spike is in the bin whose end, in steps of 0.5 ms, is nearest.
        assert labels.tolist() == (np.round(times / DT) - 1).astype(int).tolist()


def test_the_documents_own_example_writes_a_sound_file(tmp_path: Path, monkeypatch) -> None:
    text = (REPOSITORY / "docs" / "data-format.md").read_text("utf-8")
    section = text.split("## Your own data")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.+?)^```", section, re.M | re.S):
        exec(code, names)
    assert _run("data", "validate", tmp_path / "mine.h5", "--json")["valid"]
    with datasets.open(tmp_path / "mine.h5") as data:
        assert data.split_sizes == {"train": 80, "valid": 10, "test": 10}
    assert names["header"].channels.last_segment == 2


def test_a_plot_of_a_trial_is_in_milliseconds(folder: Path, tmp_path: Path) -> None:
    drawn = _run(
        *("data", "plot", folder / "all.h5", "--start", "50.5", "--stop", "200"),
        *("--out", tmp_path / "trial.svg", "--json"),
    )
    with datasets.open(folder / "all.h5") as data:
        times = data.spike_times(0)
    assert drawn["output_spikes_ms"] == times[(times >= 50.5) & (times < 200)].tolist()
    assert (tmp_path / "trial.svg").read_text("utf-8").count("Hz per synapse") == 3


def test_training_takes_its_windows_in_milliseconds(folder: Path) -> None:
    card = surrogate.load(folder / "run" / "model.safetensors").card
    assert (card.dt_ms, card.channels, card.segments) == (DT, CHANNELS, {})
    assert card.spec.input_size == 20
    assert set(card.input_rate_hz) == {"AMPA", "GABA", "5-HT"}
    for low, high in card.input_rate_hz.values():
        # 4 % of bins of 0.5 ms are 80 Hz: rates are per second, not per bin.
        assert low < 80 < high
    assert card.spike_rule is not None


def test_scores_count_time_and_not_bins(folder: Path) -> None:
    model = surrogate.load(folder / "run" / "model.safetensors")
    with datasets.open(folder / "all.h5") as data:
        trials = data.trial_indices("test")
        spikes = sum(len(data.spike_times(int(trial))) for trial in trials)
        outputs = run_protocol(model.stack, data, trials)
    result = _run(
        "evaluate", folder / "run" / "model.safetensors", "--data", folder / "all.h5", "--json"
    )
    assert result["n_bins"] == 3 * BINS
    rule = result["spike_rule"]
    assert rule["neuron_rate_hz"] == pytest.approx(spikes / (3 * 0.3))
    assert rule["refractory_ms"] == model.spike_rule.refractory_bins * DT <= 6
    emitted = model.spike_rule.emit(outputs.logits)
    for row in emitted:
        assert np.diff(np.flatnonzero(row)).min(initial=BINS) >= model.spike_rule.refractory_bins
    # Spikes up to 2 ms apart are up to 4 bins apart.
    pairs = coincidences(emitted, outputs.spikes, 4).sum()
    expected = 2 * pairs / (emitted.sum() + outputs.spikes.sum())
    assert result["event_f1"]["2"] == pytest.approx(expected)


def test_windows_of_a_protocol_are_in_milliseconds(folder: Path) -> None:
    protocol = Protocol(window_ms=100, burn_in_ms=30, ignored_ms=50)
    with datasets.open(folder / "all.h5") as data:
        windows = protocol.windows(data)
        with pytest.raises(UsageError, match="has no rounded spike times; use --labels exact"):
            data.spike_times(0, "legacy")
    assert windows[:2] == [(40, 100, 240), (180, 240, 380)]
    assert windows[-1][2] == BINS


def test_data_with_other_bins_are_refused(folder: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(HEADER, dt_ms=1.0)
    trial = _trial(np.random.default_rng(0), "test")
    datasets.write(tmp_path / "other.h5", other, [trial])
    with pytest.raises(UsageError, match=r"bins of 1 ms, the model has 0\.5 ms"):
        surrogate.evaluate(folder / "run" / "model.safetensors", tmp_path / "other.h5")


def test_the_report_says_what_the_neuron_is(folder: Path, tmp_path: Path) -> None:
    model, out = folder / "run" / "model.safetensors", tmp_path / "report.html"
    _run("report", model, "--data", folder / "all.h5", "--out", out, "--json")
    page = out.read_text("utf-8")
    assert "20 channels: 10 AMPA, 6 GABA, 4 5-HT" in page
    assert "0.5 ms" in page


@pytest.fixture
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    yield
    prefs.codegen.target = before


@pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")
def test_a_brian2_group_steps_in_the_bins_of_the_card(folder: Path, numpy_target) -> None:
    """Spikes and voltage online are those offline, bin by bin of 0.5 ms."""
    model = surrogate.load(folder / "run" / "model.safetensors")
    bins, rng = 240, np.random.default_rng(5)
    active = rng.random((2, bins, 20)) < 0.06
    neuron, at, channel = np.nonzero(active)
    offline, voltage = predict_events(model.stack, SpikeEvents.from_dense(torch.from_numpy(active)))
    expected = model.spike_rule.emit(offline)
    assert expected.sum() > 3

    cells = SurrogateNeuron(2, model)
    arrives = at * DT + rng.integers(0, 5, at.size) * 0.1  # anywhere within the bin
    source = SpikeGeneratorGroup(40, neuron * 20 + channel, arrives * ms)
    drive = Synapses(source, cells.inputs, on_pre="x_post += 1")
    drive.connect(j="i")
    spikes = SpikeMonitor(cells)
    trace = StateMonitor(cells, "v", record=True, dt=DT * ms)
    Network(cells, source, drive, spikes, trace).run((bins * DT + 0.1) * ms)

    assert trace.v.shape == (2, bins + 1)
    np.testing.assert_allclose(np.asarray(trace.v)[:, 1:] * 1e3, voltage, atol=1e-3)
    # Bin k ends at (k + 1) x 0.5 ms; a peak is known a bin later.
    neuron, at = np.nonzero(expected)
    order = np.lexsort((neuron, at))
    np.testing.assert_allclose(spikes.t / ms, (at[order] + 1) * DT + cells.spike_delay / ms)
    assert spikes.i[:].tolist() == neuron[order].tolist()
    rates = {group: rate / Hz for group, rate in cells.input_rates.items()}
    assert rates.keys() == {"AMPA", "GABA", "5-HT"}
    assert np.mean(list(rates.values())) == pytest.approx(0.06 / DT * 1e3, rel=0.2)


def test_inputs_are_found_by_the_name_of_their_group(folder: Path) -> None:
    cells = SurrogateNeuron(3, folder / "run" / "model.safetensors")
    assert cells.channel(2, [0, 3], "5-HT").tolist() == [2 * 20 + 16, 2 * 20 + 19]
    with pytest.raises(UsageError, match="no channel group 'NMDA': expected AMPA or GABA or 5-HT"):
        cells.channel(0, 0, "NMDA")
    rates = cells.channels.per_channel({"AMPA": 20, "GABA": 10, "5-HT": 1})
    assert rates.tolist() == [20] * 10 + [10] * 6 + [1] * 4
    with pytest.raises(UsageError, match="no value for channel group 'GABA'"):
        cells.channels.per_channel({"AMPA": 20})
    states = warm_state(folder / "run" / "model.safetensors", 2, 5 * ms, rates={"AMPA": 50 * Hz})
    assert states.shape == (2, 8)
