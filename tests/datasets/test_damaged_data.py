"""A damaged data file: one line that names the file and what is wrong, or a trial that is named."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.hdf5 import resealed
from surrogate import datasets
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import DataError


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
        ("provenance", "{}", "provenance does not match its digest"),
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


NESTED = '{"a": ' * 101 + "1" + "}" * 101


@pytest.mark.parametrize(
    "provenance", ["{", "[" * 100_000, "[]", NESTED, '{"n": 1' + "0" * 5000 + "}"]
)
def test_a_provenance_that_is_no_object_is_one_line(copy: Path, provenance: str) -> None:
    with h5py.File(copy, "r+") as file:
        file.attrs["provenance"] = np.bytes_(provenance)
        resealed(file)
    with pytest.raises(DataError, match="provenance") as caught:
        datasets.open(copy)
    assert len(str(caught.value)) < len(str(copy)) + 200


def test_strings_of_variable_length_are_never_read(copy: Path) -> None:
    """They lie outside HDF5's checksums: damaged ones have hung the library."""
    with h5py.File(copy, "r+") as file:
        file.attrs["format"] = "surrogate-spikes"
    with pytest.raises(DataError, match="attribute format is None"):
        datasets.open(copy)


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
