"""The data file: what is written is read back, and what is broken is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from surrogate import datasets
from surrogate.datasets.trial import Header, Trial, spike_bins
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import DataError, UsageError


@pytest.fixture
def copy(toy_data: Path, tmp_path: Path) -> Path:
    """A copy of the toy data to damage."""
    return Path(shutil.copy(toy_data, tmp_path / "copy.h5"))


def rewritten(source: Path, target: Path, compression: int) -> Path:
    with (
        datasets.open(source) as data,
        DatasetWriter(target, data.header, compression=compression) as writer,
    ):
        for trial in data:
            writer.append(trial)
        writer.finish({"note": "again"})
    return target


def test_a_trial_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    active = rng.random((50, 6)) < 0.3
    active[7] = False
    written = Trial(
        channel=np.nonzero(active)[1].astype(np.uint16),
        row_ptr=np.concatenate([[0], active.sum(1).cumsum()]),
        spike_time_ms=np.array([0.25, 40.125], np.float32),
        spike_time_float16_ms=np.array([0.25, 40.125], np.float32),
        soma_voltage_mV=rng.normal(-65, 5, 50).astype(np.float16).astype(np.float32),
        silenced=np.flatnonzero(active[0])[:1].astype(np.uint16),
        exact_times=False,
        source=(123456789012, 3),
        split="valid",
    )
    segments = {
        "type": np.array(["basal", "apical", "apical"]),
        "length_um": np.ones(3),
        "distance_um": np.arange(3.0),
        "section": np.arange(3),
    }
    with DatasetWriter(tmp_path / "a.h5", Header(50, 6, 3, segments)) as writer:
        writer.append(written)
        writer.finish({"by": "test"})
    with datasets.open(tmp_path / "a.h5") as data:
        read = data[0]
        assert data.segments["type"].tolist() == ["basal", "apical", "apical"]
        assert data.provenance == {"by": "test"}
    for field in dataclasses.fields(Trial):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name))
    assert read.digest() == written.digest()


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
            np.testing.assert_array_equal(voltage[b], whole.soma_voltage_mV[window])
            bins = np.zeros(data.n_steps)
            bins[spike_bins(whole.spike_time_ms)] = 1
            np.testing.assert_array_equal(spikes[b], bins[window])


def test_no_window_gives_an_empty_batch(toy_data: Path) -> None:
    with datasets.open(toy_data) as data:
        assert data.events([], [], 10).channel.numel() == 0


@pytest.mark.parametrize(
    ("time", "expected"), [(0.0, 0), (0.375, 0), (1.0, 0), (1.5, 1), (43.75, 43), (44.5, 44)]
)
def test_an_output_spike_at_s_is_in_bin_int_of_s_minus_half(time: float, expected: int) -> None:
    assert spike_bins(np.array([time])) == [expected]


def test_legacy_labels_use_the_rounded_times_and_drop_what_is_past_the_end(
    toy_data: Path, tmp_path: Path
) -> None:
    with datasets.open(toy_data) as data:
        segments, steps = data.segments, 2049
        trial = Trial(
            channel=np.zeros(0, np.uint16),
            row_ptr=np.zeros(steps + 1, np.int64),
            spike_time_ms=np.array([1000.25, 2048.75], np.float32),
            spike_time_float16_ms=np.array([1000.0, 2050.0], np.float32),
            soma_voltage_mV=np.zeros(steps, np.float32),
            silenced=np.zeros(0, np.uint16),
            exact_times=True,
            source=(1, 0),
        )
        header = Header(steps, data.n_inputs, data.n_excitatory, segments)
    with DatasetWriter(tmp_path / "long.h5", header) as writer:
        writer.append(trial)
        writer.finish({})
    with datasets.open(tmp_path / "long.h5") as data:
        exact = np.flatnonzero(data.spikes([0], [0], steps)[0])
        legacy = np.flatnonzero(data.spikes([0], [0], steps, labels="legacy")[0])
    assert exact.tolist() == [999, 2048]
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
    path = tmp_path / "none.h5"
    with datasets.open(toy_data) as data, DatasetWriter(path, data.header) as writer:
        writer.append(dataclasses.replace(data[0], split=None))
        writer.finish({})
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


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("format", "l5pc-spikes", "convert it first"),
        ("format", 3, "convert it first"),
        ("version", 2, "update surrogate-neuron"),
        ("version", "1", "whole number"),
        ("n_trials", 0, "whole number"),
        ("n_trials", 13, "shape"),
        ("n_trials", 2**60, "whole number"),
        ("n_steps", 399, "shape"),
        ("n_inputs", 40_000, "whole number"),
        ("n_excitatory", 11, "shape"),
        ("dt_ms", 0.5, "expected 1.0"),
        ("provenance", "{", "damaged HDF5"),
        ("provenance", "[" * 100_000, "damaged HDF5"),
    ],
)
def test_a_wrong_attribute_is_one_line_with_the_file(
    copy: Path, attribute: str, value: object, message: str
) -> None:
    with h5py.File(copy, "r+") as file:
        file.attrs[attribute] = np.bytes_(value) if isinstance(value, str) else value
    with pytest.raises(DataError, match=message) as caught:
        datasets.open(copy)
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


def test_strings_of_variable_length_are_never_read(copy: Path) -> None:
    """They lie outside HDF5's checksums: damaged ones have hung the library."""
    with h5py.File(copy, "r+") as file:
        file.attrs["format"] = "surrogate-spikes"
    with pytest.raises(DataError, match="attribute format is None"):
        datasets.open(copy)


def test_the_provenance_may_be_large(toy_data: Path, tmp_path: Path) -> None:
    provenance = {"sources": [{"name": f"sim {n}.p", "sha256": "0" * 64} for n in range(5000)]}
    path = tmp_path / "large.h5"
    with datasets.open(toy_data) as data, DatasetWriter(path, data.header) as writer:
        writer.append(data[0])
        writer.finish(provenance)
    with datasets.open(path) as data:
        assert data.provenance == provenance


@pytest.mark.parametrize(
    "name", ["input/gap", "input/count", "output/trial_ptr", "soma_voltage_mV", "segment/type"]
)
def test_a_missing_array_is_named(copy: Path, name: str) -> None:
    with h5py.File(copy, "r+") as file:
        del file[name]
    with pytest.raises(DataError, match=name):
        datasets.open(copy)


def test_pointers_that_leave_their_array_are_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["output/trial_ptr"][3] = 10_000
    with pytest.raises(DataError, match="output/trial_ptr does not rise"):
        datasets.open(copy)


def test_an_array_in_another_file_is_refused(copy: Path, toy_data: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["soma_voltage_mV"]
        file["soma_voltage_mV"] = h5py.ExternalLink(str(toy_data), "soma_voltage_mV")
    with pytest.raises(DataError, match="soma_voltage_mV is missing"):
        datasets.open(copy)


def test_an_array_larger_than_its_file_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["input/silenced"]
        file.create_dataset("input/silenced", shape=(10**12,), chunks=(1000,), dtype="u2")
    with pytest.raises(DataError, match="not filled"):
        datasets.open(copy)


def test_events_and_voltages_are_checked_when_read(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["soma_voltage_mV"][2, 50] = np.nan
        file["input/count"][3, 10] += 1
        start = file["input/trial_ptr"][4]
        file["input/gap"][start] = 20
    with datasets.open(copy) as data:
        with pytest.raises(DataError, match="trial 2 is not finite"):
            data.voltage([2], [0], 100)
        with pytest.raises(DataError, match="trial 3 counts"):
            data.events([3], [300], 10)
        with pytest.raises(DataError, match=r"outside 0\.\.19"):
            data.events([4], [0], 100)
    problems = "\n".join(validate(copy))
    assert "trial 2: soma voltage is not finite at 1 samples, first at 50 ms" in problems
    assert "trial 3: counts" in problems
    assert "trial 4: input channel" in problems


def test_validate_finds_what_no_reader_notices(copy: Path) -> None:
    assert validate(copy) == []
    with h5py.File(copy, "r+") as file:
        file["soma_voltage_mV"][1, 5] = -60
        file["input/gap"][int(file["input/count"][0, 0]) + 1] = 0
        file["output/spike_time_ms"][0] += 1
    problems = validate(copy)
    assert "trial 1: its content does not match its digest" in problems
    assert any(p.startswith("trial 0: ") for p in problems)


def test_validate_finds_a_wrong_file_digest_and_twin_trials(toy_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "twins.h5"
    with datasets.open(toy_data) as data, DatasetWriter(path, data.header) as writer:
        writer.append(data[0])
        writer.append(data[0])
        writer.finish({})
    with h5py.File(path, "r+") as file:
        file.attrs["digest"] = np.bytes_("0" * 64)
    assert validate(path) == [
        "the digest of the file does not match those of its trials",
        "trial 1: the same as trial 0",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\x80\x02}.", "not an HDF5 file"), (b"\x89HDF\r\n\x1a\n", "damaged")],
)
def test_what_is_no_data_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        datasets.open(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        datasets.open(tmp_path / "nope.h5")
    with pytest.raises(DataError, match="is a folder"):
        datasets.open(tmp_path)


def test_an_unfinished_file_is_refused(toy_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.h5"
    with datasets.open(toy_data) as data, DatasetWriter(path, data.header) as writer:
        writer.append(data[0])
    with pytest.raises(DataError, match="n_trials is None"):
        datasets.open(tmp_path / "half.h5")


def test_the_bundled_sample_is_small_sound_and_split() -> None:
    path = datasets.sample_path()
    assert path.stat().st_size <= 10_000_000
    assert validate(path) == []
    with datasets.open() as data:
        assert data.is_sample
        assert data.split_sizes is not None
        assert data.split_sizes["valid"] == 12
        assert data.split_sizes["test"] == 8
        assert (data.n_inputs, data.n_excitatory, data.n_steps) == (1278, 639, 6000)
        assert {"train", "valid", "test"} == {
            source["split"] for source in json.loads(json.dumps(data.provenance))["sources"]
        }
        batch = data.events(np.arange(32), np.full(32, 2000), 1000)
        assert batch.nbytes < 2_000_000
