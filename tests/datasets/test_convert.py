"""Conversion: one job or more, the same data."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from surrogate import datasets
from surrogate.benchmarks.data_path import alone, measure_conversion
from surrogate.benchmarks.public_pickle import write_public_pickle
from surrogate.datasets.convert import convert, draw_splits
from surrogate.datasets.validate import validate
from surrogate.errors import DataError, UsageError


def test_the_trials_come_in_the_order_of_the_sources_whatever_the_jobs(
    pickles: list[Path], tmp_path: Path
) -> None:
    one = convert(pickles, tmp_path / "one.h5")
    two = convert(pickles, tmp_path / "two.h5", jobs=2)
    assert one.digest == two.digest
    assert dataclasses.replace(one, path=two.path) == two
    with datasets.open(tmp_path / "two.h5") as data:
        assert [trial.source for trial in data] == [(n, k) for n in range(4) for k in range(3)]
        assert [source["name"] for source in data.provenance["sources"]] == [
            path.name for path in pickles
        ]
    assert validate(tmp_path / "one.h5") == []
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


def test_the_genuine_pickle_and_its_hdf5_twin_convert_to_equal_data(
    shared_data: Path, tmp_path: Path
) -> None:
    mine = convert([shared_data / "l5pc-kaggle-format.p.xz"], tmp_path / "pickle.h5")
    convert([shared_data / "l5pc-train.h5"], tmp_path / "train.h5")
    assert (mine.n_trials, mine.n_output_spikes, mine.inexact_trials) == (2, 18, [])
    assert mine.n_silenced == 19
    with (
        datasets.open(tmp_path / "pickle.h5") as one,
        datasets.open(tmp_path / "train.h5") as all_of_run,
    ):
        for index in range(2):
            assert one[index].source == all_of_run[index].source
            for field in dataclasses.fields(datasets.Trial):
                np.testing.assert_equal(
                    getattr(one[index], field.name), getattr(all_of_run[index], field.name)
                )
        assert one.header.difference(all_of_run.header) is None


def test_synaptic_weights_and_the_nexus_voltage_are_converted(
    shared_data: Path, tmp_path: Path
) -> None:
    convert([shared_data / "l5pc-graded.h5"], tmp_path / "graded.h5")
    assert validate(tmp_path / "graded.h5") == []
    with (
        h5py.File(shared_data / "l5pc-graded.h5") as given,
        datasets.open(tmp_path / "graded.h5") as data,
    ):
        assert data.header.weights
        np.testing.assert_array_equal(data[3].weight, given["input/weight"][3])
        np.testing.assert_array_equal(data[3].voltage_mV["nexus"], given["nexus_voltage_mV"][3])
        with pytest.raises(UsageError, match="networks take spikes of one size"):
            data.events([0], [0], 10)


def test_what_not_all_sources_have_is_left_out_and_named(toy_data: Path, tmp_path: Path) -> None:
    with datasets.open(toy_data) as data:
        first, second = data[0], data[1]
        header = dataclasses.replace(data.header, rounded_times=False, voltages=("soma", "nexus"))
        both = dataclasses.replace(
            second.reduced_to(dataclasses.replace(header, voltages=("soma",))),
            voltage_mV={**second.voltage_mV, "nexus": second.voltage_mV["soma"]},
        )
        datasets.write(tmp_path / "one.h5", data.header, [first])
        datasets.write(tmp_path / "two.h5", header, [both])
    done = convert([tmp_path / "two.h5", tmp_path / "one.h5"], tmp_path / "all.h5")
    assert done.left_out == ["nexus voltage", "rounded spike times"]
    with datasets.open(tmp_path / "all.h5") as data:
        assert data.header.voltages == ("soma",)
        assert not data.header.rounded_times
        np.testing.assert_array_equal(data[1].spike_time_ms, first.spike_time_ms)


def test_a_split_is_stored_for_all_trials(pickles: list[Path], tmp_path: Path) -> None:
    done = convert(pickles[:1], tmp_path / "valid.h5", split="valid")
    assert done.split_sizes == {"train": 0, "valid": 3, "test": 0}


def test_without_a_split_none_is_stored(pickles: list[Path], tmp_path: Path) -> None:
    assert convert(pickles[:1], tmp_path / "x.h5").split_sizes is None


def test_fractions_are_drawn_from_the_seed(pickles: list[Path], tmp_path: Path) -> None:
    sizes, order = set(), []
    for seed in (0, 0, 1):
        out = tmp_path / "drawn.h5"
        done = convert(pickles, out, fractions=(0.5, 0.25, 0.25), seed=seed)
        assert done.split_sizes is not None
        sizes.add(tuple(done.split_sizes.values()))
        with datasets.open(out) as data:
            order.append(data.stored_splits())
    assert sizes == {(6, 3, 3)}
    assert order[0] == order[1] != order[2]


@pytest.mark.parametrize("n_trials", [1, 2, 3, 7, 100])
def test_fractions_leave_no_trial_out(n_trials: int) -> None:
    drawn = draw_splits(n_trials, (0.8, 0.1, 0.1), 0)
    assert len(drawn) == n_trials
    assert drawn.count("train") == round(0.8 * n_trials)


def test_merging_our_own_files_keeps_their_splits(pickles: list[Path], tmp_path: Path) -> None:
    convert(pickles[:1], tmp_path / "train.h5", split="train")
    convert(pickles[1:2], tmp_path / "test.h5", split="test")
    done = convert(
        [tmp_path / "test.h5", tmp_path / "train.h5", pickles[2]],
        tmp_path / "all.h5",
        split="valid",
    )
    assert done.split_sizes == {"train": 3, "valid": 3, "test": 3}
    with datasets.open(tmp_path / "all.h5") as data:
        assert [trial.split for trial in data] == ["test"] * 3 + ["train"] * 3 + ["valid"] * 3
    assert (tmp_path / "train.h5").exists()


def test_merging_files_with_and_without_split_asks_for_one(
    pickles: list[Path], tmp_path: Path
) -> None:
    convert(pickles[:1], tmp_path / "train.h5", split="train")
    with pytest.raises(UsageError, match="give the others theirs"):
        convert([tmp_path / "train.h5", pickles[1]], tmp_path / "all.h5")


def test_a_trial_that_comes_twice_is_refused(pickles: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.p"
    copy.write_bytes(pickles[0].read_bytes())
    for sources in ([pickles[0], copy], [pickles[0], pickles[0]]):
        with pytest.raises(DataError, match=r"is the same as trial 0 of .*leave one of them out"):
            convert(sources, tmp_path / "out.h5")
        assert not (tmp_path / "out.h5").exists()


def test_another_neuron_is_refused(
    pickles: list[Path], public_content: dict[str, Any], tmp_path: Path
) -> None:
    public_content["Params"]["allSegmentsLength"][2] = 31.0
    (tmp_path / "other.p").write_bytes(pickle.dumps(public_content, protocol=2))
    with pytest.raises(DataError, match="segments differ in length_um"):
        convert([pickles[0], tmp_path / "other.p"], tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "training"}, "unknown split"),
        ({"split": "train", "fractions": (0.8, 0.1, 0.1)}, "choose one"),
        ({"fractions": (0.8, 0.1)}, "three shares"),
        ({"fractions": (0.8, 0.1, 0.2)}, "three shares"),
        ({"fractions": (1.2, -0.1, -0.1)}, "three shares"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "three shares"),
        ({"jobs": 0}, "at least 1"),
    ],
)
def test_contradicting_arguments_are_refused(
    pickles: list[Path], tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(pickles, tmp_path / "out.h5", **arguments)
    assert list(tmp_path.glob("out*")) == []


def test_the_result_may_not_be_a_source_or_a_folder(pickles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a source as well"):
        convert(pickles, pickles[0])
    with pytest.raises(UsageError, match="is a folder"):
        convert(pickles, tmp_path)
    with pytest.raises(UsageError, match="no source"):
        convert([], tmp_path / "out.h5")


def test_the_file_needs_nothing_but_standard_filters(pickles: list[Path], tmp_path: Path) -> None:
    convert(pickles, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        found = {file[name].compression for name in ("input/gap", "input/count", "voltage/soma")}
    assert found == {"gzip"}


@pytest.mark.slow
def test_converting_a_pickle_takes_less_than_twice_its_size_in_memory(tmp_path: Path) -> None:
    source = tmp_path / "public.p"
    write_public_pickle(source, 16)
    measured = alone(measure_conversion, source)
    assert measured["trials"] == 16
    assert 0.1 < measured["memory_per_source_mb"] < 2
