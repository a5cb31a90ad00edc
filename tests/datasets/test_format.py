"""The data file: what is written is read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from surrogate import datasets
from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets import Header, Trial
from surrogate.datasets.trial import spike_bins
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import UsageError


def rewritten(source: Path, target: Path, compression: int) -> Path:
    with (
        datasets.open(source) as data,
        DatasetWriter(target, data.header, compression=compression) as writer,
    ):
        for trial in data:
            writer.append(trial)
        writer.finish({"note": "again"})
    return target


def everything() -> tuple[Header, Trial]:
    """A header and a trial with all that a file can hold."""
    rng = np.random.default_rng(0)
    active = rng.random((50, 6)) < 0.3
    active[7] = False
    header = Header(
        n_steps=50,
        channels=Channels(
            [
                ChannelGroup("AMPA", 3, "excitatory", segments=(2, 0, 2)),
                ChannelGroup("GABA", 2, "inhibitory"),
                ChannelGroup("5-HT", 1, "modulatory"),
            ]
        ),
        dt_ms=0.5,
        segments={"type": np.array(["basal", "apical", "tuft"]), "x_um": np.arange(3) / 2},
        voltages=("nexus", "soma", "axon"),
        amplitudes=True,
        weights=True,
        rounded_times=True,
    )
    trial = Trial(
        channel=np.nonzero(active)[1].astype(np.uint16),
        row_ptr=np.concatenate([[0], active.sum(1).cumsum()]),
        spike_time_ms=np.array([0.2, 20.1]),
        rounded_spike_time_ms=np.array([0.2, 20.1], np.float16).astype(np.float32),
        voltage_mV={
            name: rng.normal(-65, 5, 50).astype(np.float16).astype(np.float32)
            for name in header.voltages
        },
        amplitude=rng.random(int(active.sum()), np.float32),
        weight=rng.random(6, np.float32),
        silenced=np.flatnonzero(active[0])[:1].astype(np.uint16),
        exact_times=False,
        source=(123456789012, 3),
        split="valid",
    )
    return header, trial


def test_what_is_written_reads_back_as_it_was(tmp_path: Path) -> None:
    header, written = everything()
    datasets.write(tmp_path / "a.h5", header, [written], {"by": "test"})
    assert validate(tmp_path / "a.h5") == []
    with datasets.open(tmp_path / "a.h5") as data:
        read = data[0]
        assert data.header.difference(header) is None
        assert data.header.voltages == ("soma", "axon", "nexus")
        assert data.header.rounded_times
        assert [group.sign for group in data.channels.groups] == [1, -1, 0]
        assert data.segments["type"].tolist() == ["basal", "apical", "tuft"]
        assert data.provenance == {"by": "test"}
        for name, voltage in written.voltage_mV.items():
            np.testing.assert_array_equal(data.voltage([0], [10], 20, name), [voltage[10:30]])
        with pytest.raises(UsageError, match="no voltage 'tuft'; expected soma or axon or nexus"):
            data.voltage([0], [0], 1, "tuft")
    for field in dataclasses.fields(Trial):
        np.testing.assert_equal(getattr(read, field.name), getattr(written, field.name))
    assert read.digest() == written.digest()


@pytest.mark.parametrize("sizes", ["amplitudes", "weights"])
def test_input_of_different_sizes_is_not_taken_for_input_of_one(tmp_path: Path, sizes: str) -> None:
    header, trial = everything()
    other = {"amplitudes": "weights", "weights": "amplitudes"}[sizes]
    header = dataclasses.replace(header, **{other: False})
    trial = dataclasses.replace(trial, **{other.removesuffix("s"): None})
    datasets.write(tmp_path / "a.h5", header, [trial])
    refused = pytest.raises(UsageError, match="networks take spikes of one size")
    with datasets.open(tmp_path / "a.h5") as data, refused:
        data.events([0], [0], 10)


def test_a_file_holds_no_more_than_its_header_says(tmp_path: Path) -> None:
    header = Header(50, Channels.of(excitatory=4), 0.1)
    trial = Trial.from_spikes(header, [], [], spike_time_ms=[], voltage_mV={"soma": np.zeros(50)})
    datasets.write(tmp_path / "a.h5", header, [trial])
    found: list[str] = []
    with h5py.File(tmp_path / "a.h5") as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    assert set(found) == {
        *("group/name", "group/kind", "group/sign", "group/size"),
        *("input/gap", "input/count", "input/trial_ptr"),
        *("output/spike_time_ms", "output/trial_ptr"),
        *("voltage/soma", "trial/source", "trial/digest"),
    }
    with datasets.open(tmp_path / "a.h5") as data:
        assert data.segments == {}
        with pytest.raises(UsageError, match="no rounded spike times"):
            data.spikes([0], [0], 50, labels="legacy")


def test_windows_are_slices_of_the_trials(toy_data: Path) -> None:
    trials, starts, steps = [3, 0, 11, 3], [0, 17, 300, 250], 100
    with datasets.open(toy_data) as data:
        events = data.events(trials, starts, steps)
        events.validate(data.n_inputs)
        dense = events.to_dense(data.n_inputs).numpy()
        voltage = data.voltage(trials, starts, steps)
        spikes = data.spikes(trials, starts, steps)
        for b, (trial, start) in enumerate(zip(trials, starts, strict=True)):
            whole = data[trial]
            rows = np.repeat(np.arange(data.n_steps), np.diff(whole.row_ptr))
            expected = np.zeros((data.n_steps, data.n_inputs))
            expected[rows, whole.channel] = 1
            window = slice(start, start + steps)
            np.testing.assert_array_equal(dense[b], expected[window])
            np.testing.assert_array_equal(voltage[b], whole.voltage_mV["soma"][window])
            bins = np.zeros(data.n_steps)
            bins[spike_bins(whole.spike_time_ms, 1.0)] = 1
            np.testing.assert_array_equal(spikes[b], bins[window])


def test_no_window_gives_an_empty_batch(toy_data: Path) -> None:
    with datasets.open(toy_data) as data:
        assert data.events([], [], 10).channel.numel() == 0


@pytest.mark.parametrize(
    ("time", "expected"), [(0.0, 0), (0.375, 0), (1.0, 0), (1.5, 1), (43.75, 43), (44.5, 44)]
)
def test_an_output_spike_at_s_is_in_bin_int_of_s_minus_half(time: float, expected: int) -> None:
    assert spike_bins(np.array([time]), 1.0) == [expected]
    assert spike_bins(np.array([time / 4]), 0.25) == [expected]


def test_legacy_labels_use_the_rounded_times_and_drop_what_is_past_the_end(tmp_path: Path) -> None:
    steps = 2051
    header = Header(steps, Channels.of(excitatory=3), 1.0, rounded_times=True)
    trial = Trial(
        channel=np.zeros(0, np.uint16),
        row_ptr=np.zeros(steps + 1, np.int64),
        spike_time_ms=np.array([1000.25, 2051.0]),
        rounded_spike_time_ms=np.array([1000.0, 2052.0], np.float32),
        voltage_mV={"soma": np.zeros(steps, np.float32)},
    )
    datasets.write(tmp_path / "long.h5", header, [trial])
    with datasets.open(tmp_path / "long.h5") as data:
        exact = np.flatnonzero(data.spikes([0], [0], steps)[0])
        legacy = np.flatnonzero(data.spikes([0], [0], steps, labels="legacy")[0])
    assert exact.tolist() == [999, 2050]
    assert legacy.tolist() == [999]


def test_the_digest_depends_on_content_only(toy_data: Path, tmp_path: Path) -> None:
    other = rewritten(toy_data, tmp_path / "other name.h5", 9)
    with datasets.open(toy_data) as one, datasets.open(other) as two:
        assert one.digest == two.digest
    assert toy_data.stat().st_size != other.stat().st_size


def test_splits_are_by_trial_and_complete(toy_data: Path) -> None:
    with datasets.open(toy_data) as data:
        parts = [data.trial_indices(split) for split in datasets.SPLITS]
        assert sorted(np.concatenate(parts).tolist()) == data.trial_indices("all").tolist()
        assert data.split_sizes == {"train": 8, "valid": 2, "test": 2}


def test_a_file_without_split_accepts_only_all(toy_data: Path, tmp_path: Path) -> None:
    with datasets.open(toy_data) as data:
        trial = dataclasses.replace(data[0], split=None)
        datasets.write(tmp_path / "none.h5", data.header, [trial])
    with datasets.open(tmp_path / "none.h5") as data:
        assert data.split_sizes is None
        assert data.trial_indices("all").tolist() == [0]
        with pytest.raises(UsageError, match="stores no split"):
            data.trial_indices("train")


@pytest.mark.parametrize("split", ["training", "", "ALL"])
def test_an_unknown_split_is_refused(toy_data: Path, split: str) -> None:
    with datasets.open(toy_data) as data, pytest.raises(UsageError, match="unknown split"):
        data.trial_indices(split)


@pytest.mark.parametrize(
    ("trials", "starts", "steps"),
    [([12], [0], 10), ([-1], [0], 10), ([0], [-1], 10), ([0], [391], 10), ([0], [0], 0)],
)
def test_windows_outside_the_data_are_refused(
    toy_data: Path, trials: list[int], starts: list[int], steps: int
) -> None:
    with datasets.open(toy_data) as data:
        for read in (data.events, data.voltage, data.spikes):
            with pytest.raises(UsageError, match=r"expected|leave the trial"):
                read(trials, starts, steps)


def test_the_provenance_may_be_large(toy_data: Path, tmp_path: Path) -> None:
    provenance = {"sources": [{"name": f"sim {n}.p", "sha256": "0" * 64} for n in range(5000)]}
    path = tmp_path / "large.h5"
    with datasets.open(toy_data) as data:
        datasets.write(path, data.header, [data[0]], provenance)
    with datasets.open(path) as data:
        assert data.provenance == provenance


def test_the_bundled_sample_is_small_sound_and_split() -> None:
    path = datasets.sample_path()
    assert path.stat().st_size <= 10_000_000
    assert validate(path) == []
    with datasets.open() as data:
        assert data.is_sample
        assert data.split_sizes is not None
        assert data.split_sizes["valid"] == 12
        assert data.split_sizes["test"] == 8
        assert [(group.name, group.size) for group in data.channels.groups] == [
            ("excitatory", 639),
            ("inhibitory", 639),
        ]
        assert (data.n_steps, data.dt_ms) == (6000, 1.0)
        assert {"train", "valid", "test"} == {
            source["split"] for source in json.loads(json.dumps(data.provenance))["sources"]
        }
        batch = data.events(np.arange(32), np.full(32, 2000), 1000)
        assert batch.nbytes < 2_000_000
