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
from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets import Header, Trial
from surrogate.datasets.content import dataset_digest
from surrogate.datasets.layout import STREAMED, array_for
from surrogate.datasets.trial import spike_bins
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


def test_a_trial_is_made_from_lists_of_spikes() -> None:
    header = Header(40, Channels.of(excitatory=2, inhibitory=1), 0.1, amplitudes=True)
    # 0.3 / 0.1 falls short of 3 in floating point; the two spikes at 1.0 share a bin.
    trial = Trial.from_spikes(
        header,
        channel=[2, 0, 1, 0, 0],
        time_ms=[0.3, 1.05, 1.0, 1.0, 3.9999999],
        amplitude=[1, 2, 3, 4, 5],
        spike_time_ms=[2.5, 1.5],
        voltage_mV={"soma": np.zeros(40)},
    )
    assert trial.problems(header) == []
    assert trial.channel.tolist() == [2, 0, 1, 0]
    assert np.flatnonzero(np.diff(trial.row_ptr)).tolist() == [3, 10, 39]
    assert trial.amplitude is not None
    assert trial.amplitude.tolist() == [1, 6, 3, 5]
    assert trial.spike_time_ms.tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("channel", "time_ms", "message"),
    [
        ([3], [0], "channels from 3 to 3: expected 0 to below 3"),
        ([-1], [0], "channels from -1"),
        ([0], [4.0], "times in ms from 4 to 4: expected 0 to below 4"),
        ([0], [-0.1], "times in ms"),
        ([0], [np.nan], "times in ms"),
        ([0, 1], [1], "one time for each channel"),
    ],
)
def test_spikes_outside_the_trial_are_refused(channel, time_ms, message) -> None:
    header = Header(40, Channels.of(excitatory=2, inhibitory=1), 0.1)
    with pytest.raises(UsageError, match=message):
        Trial.from_spikes(header, channel, time_ms, spike_time_ms=[], voltage_mV={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": np.array([4], np.uint16)}, "channel 4 is outside 0..3"),
        ({"row_ptr": np.arange(51)}, "row_ptr ends at 50, but there are 1 events"),
        ({"voltage_mV": {"soma": np.zeros(49)}}, "soma voltage has 49 samples, expected 50"),
        ({"voltage_mV": {"soma": np.full(50, 1e6)}}, "soma voltage is not finite at 50 samples"),
        ({"voltage_mV": {"dendrite": np.zeros(50)}}, "voltages are dendrite, not soma"),
        ({"amplitude": np.ones(1)}, "amplitude is not announced"),
        ({"weight": np.ones(4)}, "weight is not announced"),
        ({"spike_time_ms": np.array([2.0, 1.0])}, "output spike times must not decrease"),
        ({"spike_time_ms": np.array([5.1])}, "an output spike at 5.1 ms lies past 5 ms"),
        ({"silenced": np.array([2], np.uint16)}, "a silenced channel has no event"),
        ({"rounded_spike_time_ms": np.zeros(0)}, "rounded spike times are not announced"),
    ],
)
def test_a_broken_trial_is_not_written(change, message, tmp_path: Path) -> None:
    header = Header(50, Channels.of(excitatory=4), 0.1)
    sound = Trial.from_spikes(header, [3], [1], spike_time_ms=[], voltage_mV={"soma": np.zeros(50)})
    with pytest.raises(DataError, match=f"^trial 1: {message}"):
        datasets.write(tmp_path / "a.h5", header, [sound, dataclasses.replace(sound, **change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0: expected 1"),
        ({"dt_ms": 0.0}, "dt_ms is 0.0: expected bins of"),
        ({"dt_ms": float("nan")}, "dt_ms is nan"),
        ({"voltages": ("nexus",)}, "soma is missing"),
        ({"voltages": ("soma", "a/b")}, "'a/b' is no name"),
        ({"segments": {"x": np.zeros(2), "y": np.zeros(3)}}, r"\[2, 3\] rows"),
        ({"segments": {"x": np.zeros((2, 2))}}, "a number or a text for each segment"),
        ({"segments": {"x": np.array(["\u00e9"])}}, "other than ASCII"),
        ({"channels": Channels([ChannelGroup("a", 2, segments=(0, 1))])}, "on segment 1"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(fields, message) -> None:
    sound = {"n_steps": 5, "channels": Channels.of(excitatory=4), "dt_ms": 1.0}
    with pytest.raises(UsageError, match=message):
        Header(**(sound | {"segments": {"x": np.zeros(1)}} | fields))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "at least one"),
        ([ChannelGroup("a", 1), ChannelGroup("a", 2)], "a name comes twice"),
        ([ChannelGroup("a", 20_000), ChannelGroup("b", 20_000)], "40000 input channels"),
    ],
)
def test_groups_that_make_no_neuron_are_refused(groups, message) -> None:
    with pytest.raises(UsageError, match=message):
        Channels(groups)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "1 to 32 characters"),
        ({"name": "\u03b1"}, "printable ASCII"),
        ({"size": 0}, "has size 0"),
        ({"size": 2.0}, "has size 2.0"),
        ({"sign": 2}, "has sign 2"),
        ({"segments": (0, 1)}, "has 3 channels, its segments are 2"),
        ({"segments": (0, 1, -1)}, "from -1 on"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(fields, message) -> None:
    with pytest.raises(UsageError, match=message):
        ChannelGroup(**({"name": "a", "size": 3} | fields))


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
    steps = 2049
    header = Header(steps, Channels.of(excitatory=3), 1.0, rounded_times=True)
    trial = Trial(
        channel=np.zeros(0, np.uint16),
        row_ptr=np.zeros(steps + 1, np.int64),
        spike_time_ms=np.array([1000.25, 2048.75]),
        rounded_spike_time_ms=np.array([1000.0, 2050.0], np.float32),
        voltage_mV={"soma": np.zeros(steps, np.float32)},
    )
    datasets.write(tmp_path / "long.h5", header, [trial])
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


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("format", "l5pc-spikes", "convert it first"),
        ("format", 3, "convert it first"),
        ("version", 3, "update surrogate-neuron"),
        ("version", 1, "convert its sources again"),
        ("version", "1", "whole number"),
        ("n_trials", 0, "whole number"),
        ("n_trials", 13, "shape"),
        ("n_trials", 2**60, "whole number"),
        ("n_steps", 399, "shape"),
        ("dt_ms", 0.5, "do not match its digest"),
        ("dt_ms", "1", "expected a number"),
        ("digest", "0" * 64, "do not match its digest"),
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
    with datasets.open(toy_data) as data:
        datasets.write(path, data.header, [data[0]], provenance)
    with datasets.open(path) as data:
        assert data.provenance == provenance


@pytest.mark.parametrize(
    "name", ["input/gap", "input/count", "output/trial_ptr", "voltage/soma", "group/size"]
)
def test_a_missing_array_is_named(copy: Path, name: str) -> None:
    with h5py.File(copy, "r+") as file:
        del file[name]
    with pytest.raises(DataError, match=name):
        datasets.open(copy)


def test_pointers_that_leave_their_array_are_refused(copy: Path) -> None:
    """Even where somebody has made the digest anew."""
    with h5py.File(copy, "r+") as file:
        file["output/trial_ptr"][3] = 10_000
        resealed(file)
    with pytest.raises(DataError, match="output/trial_ptr does not rise"):
        datasets.open(copy)


def resealed(file: h5py.File) -> None:
    """Make the digest that the tables of ``file`` have now."""
    tables = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and name not in STREAMED and "voltage/" not in name:
            tables[name] = item[:].astype(array_for(name).type_for(item.dtype))

    file.visititems(add)
    digest = dataset_digest(int(file.attrs["n_steps"]), float(file.attrs["dt_ms"]), tables)
    file.attrs["digest"] = np.bytes_(digest)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("group/sign", 0, -1),
        ("group/name", 1, b"other"),
        ("channel/segment", 3, 4),
        ("segment/distance_um", 2, 1.5),
        ("output/spike_time_ms", 1, 3.0),
        ("trial/split", 0, b"test"),
        ("trial/source", 0, 7),
        ("trial/digest", 0, 7),
        ("input/silenced", 0, 7),
    ],
)
def test_the_digest_covers_all_that_decides_a_result(
    copy: Path, name: str, index: int, value: object
) -> None:
    with h5py.File(copy, "r+") as file:
        file[name][index] = value
    with pytest.raises(DataError, match="do not match its digest; the file is damaged"):
        datasets.open(copy)
    with h5py.File(copy, "r+") as file:
        before = file.attrs["digest"]
        resealed(file)
        assert file.attrs["digest"] != before


def test_an_array_in_another_file_is_refused(copy: Path, toy_data: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["voltage/soma"]
        file["voltage/soma"] = h5py.ExternalLink(str(toy_data), "voltage/soma")
    with pytest.raises(DataError, match="voltage/soma is missing"):
        datasets.open(copy)


def test_an_array_larger_than_its_file_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["input/silenced"]
        file.create_dataset("input/silenced", shape=(10**12,), chunks=(1000,), dtype="u2")
    with pytest.raises(DataError, match="not filled"):
        datasets.open(copy)


def test_events_and_voltages_are_checked_when_read(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["voltage/soma"][2, 50] = np.nan
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
        file["voltage/soma"][1, 5] = -60
        file["input/gap"][int(file["input/count"][0, 0]) + 1] = 0
    problems = validate(copy)
    assert "trial 1: its content does not match its digest" in problems
    assert any(p.startswith("trial 0: ") for p in problems)


def test_validate_finds_twin_trials(toy_data: Path, tmp_path: Path) -> None:
    with datasets.open(toy_data) as data:
        datasets.write(tmp_path / "twins.h5", data.header, [data[0], data[0]])
    assert validate(tmp_path / "twins.h5") == ["trial 1: the same as trial 0"]


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
    with pytest.raises(DataError, match="never finished"):
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
