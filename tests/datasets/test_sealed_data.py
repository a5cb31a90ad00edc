"""No part of a data file changes unseen, and no copy of it is sound where it is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from helpers.hdf5 import resealed, write_l5pc
from surrogate import datasets
from surrogate.cli.data import data as command
from surrogate.datasets import Channels, Header
from surrogate.datasets.convert import convert
from surrogate.datasets.validate import validate
from surrogate.errors import DataError, UsageError


def arrays_of(path: Path) -> list[str]:
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
    return found


def flipped(values: Any, bit: int) -> np.ndarray:
    array = np.array(values)
    view = array.reshape(-1).view(np.uint8)
    bit %= 8 * view.size
    view[bit // 8] ^= 1 << bit % 8
    return array


def is_sound(path: Path) -> bool:
    try:
        return validate(path) == []
    except DataError:
        return False


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_flipped_in_any_array_or_attribute_is_found(
    everything: Path, tmp_path: Path, seed: int
) -> None:
    bits = np.random.default_rng(seed)
    names = arrays_of(everything)
    assert len(names) > 20
    with h5py.File(everything) as file:
        attributes = list(file.attrs)
    assert is_sound(everything)
    for name in [*names, *attributes]:
        path = Path(shutil.copy(everything, tmp_path / "flipped.h5"))
        bit = int(bits.integers(1 << 30))
        with h5py.File(path, "r+") as file:
            if name in attributes:
                file.attrs[name] = flipped(file.attrs[name], bit)[()]
            else:
                file[name][...] = flipped(file[name][...], bit)
        assert not is_sound(path), (name, bit)


@pytest.mark.parametrize("seed", range(3))
def test_an_array_that_is_removed_or_reordered_is_found(
    everything: Path, tmp_path: Path, seed: int
) -> None:
    for name in arrays_of(everything):
        path = Path(shutil.copy(everything, tmp_path / "changed.h5"))
        with h5py.File(path, "r+") as file:
            values = file[name][...]
            moved = np.roll(values, 1, axis=0)
            if seed == 0:
                del file[name]
            elif np.array_equal(values, moved):
                continue
            else:
                file[name][...] = moved
        assert not is_sound(path), name


@pytest.fixture
def everything(toy_data: Path, tmp_path: Path) -> Path:
    """A data file with all that one can hold."""
    path = tmp_path / "everything.h5"
    rng = np.random.default_rng(1)
    with datasets.open(toy_data) as data:
        header = dataclasses.replace(
            data.header, voltages=("soma", "nexus"), amplitudes=True, weights=True
        )
        trials = [
            dataclasses.replace(
                trial,
                voltage_mV={**trial.voltage_mV, "nexus": trial.voltage_mV["soma"] + 1},
                amplitude=rng.random(trial.channel.size, np.float32),
                weight=rng.random(header.n_inputs, np.float32),
                exact_times=trial.source[1] > 0,
            )
            for trial in data
        ]
    datasets.write(path, header, trials, {"simulator": "a leaky integrate-and-fire neuron"})
    return path


@pytest.mark.parametrize(
    "name", ["voltage/soma", "input/gap", "output/spike_time_ms", "trial/digest"]
)
def test_a_damaged_trial_gets_no_new_digest(copy: Path, tmp_path: Path, name: str) -> None:
    """Even where the digest of the whole file has been made anew."""
    with datasets.open(copy) as data:
        others = data.trial_indices("train")[1:]
    with h5py.File(copy, "r+") as file:
        values = file[name]
        if values.ndim == 2:
            values[0, 5] = 1
        else:
            values[0] = 1
        resealed(file)
    assert others.size
    problems = validate(copy)
    assert problems
    assert all(problem.startswith("trial 0: ") for problem in problems)
    with pytest.raises(DataError, match=r"copy\.h5: trial 0 is damaged.*does not match its digest"):
        convert([copy], tmp_path / "out.h5")
    assert not list(tmp_path.glob("out*"))


def test_a_part_of_an_interrupted_conversion_that_was_damaged_is_read_again(
    pickles: list[Path], tmp_path: Path
) -> None:
    expected = convert(pickles, tmp_path / "whole.h5").digest
    sound = pickles[3].read_bytes()
    pickles[3].write_bytes(sound[:-50])
    with pytest.raises(DataError):
        convert(pickles, tmp_path / "out.h5")
    pickles[3].write_bytes(sound)
    parts = sorted((tmp_path / "out.h5.parts").glob("*.h5"))
    assert len(parts) == 3
    with h5py.File(parts[0], "r+") as file:
        file["voltage/soma"][0, 5] = 1
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    done = convert(pickles, tmp_path / "out.h5")
    assert (done.n_reused, done.digest) == (1, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-307, -1.0, 1e30])
@pytest.mark.parametrize("column", ["length_um", "distance_um"])
def test_no_segment_is_of_impossible_size(
    copy: Path, tmp_path: Path, column: str, value: float
) -> None:
    source = {"length_um": "allSegmentsLength", "distance_um": "allSegments_DistFromSoma"}[column]
    table = np.array([20.0, value, 30.0, 40.0])
    if (column, value) == ("distance_um", 1e-307):
        table[1] = 1e300
    message = rf"segment column {column} is .* in row 1: expected"
    with pytest.raises(UsageError, match=message):
        Header(5, Channels.of(excitatory=4), 1.0, {column: table})
    path = write_l5pc(tmp_path / "source.h5", **{f"segment__{source}": table})
    with pytest.raises(DataError, match=message):
        convert([path], tmp_path / "out.h5")
    assert not list(tmp_path.glob("out*"))
    with h5py.File(copy, "r+") as file:
        file[f"segment/{column}"][1] = table[1]
    with pytest.raises(DataError, match="tables do not match its digest"):
        datasets.open(copy)
    with h5py.File(copy, "r+") as file:
        resealed(file)
    with pytest.raises(DataError, match=message):
        datasets.open(copy)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("segment__allSegments_SectionInd", [0.0, np.nan, 1, 2], "sections are not whole numbers"),
        ("segment__allSegments_SectionInd", [0.0, 0.5, 1, 2], "sections are not whole numbers"),
        ("segment__allSegments_SectionInd", [0.0, 1e300, 1, 2], "sections are not whole numbers"),
        ("segment__allSegmentsType", np.array([b"\xff", b"a", b"a", b"a"]), "other than ASCII"),
        ("segment__allSegmentsType", np.array([b"\x1b[2J", b"a", b"a", b"a"]), "other than ASCII"),
        ("soma_voltage_mV", np.nan, "soma voltage is not finite at 1 samples, first at 7 ms"),
        ("soma_voltage_mV", np.inf, "soma voltage is not finite"),
        ("nexus_voltage_mV", 6e4, "nexus voltage is beyond 1000 mV"),
        ("input__weight", np.nan, "weight must be 8 finite numbers"),
        ("output__spike_time_ms", np.nan, "output spike times must be finite and not negative"),
        ("output__spike_time_ms", -1, "output spike times must be finite and not negative"),
        ("output__spike_time_ms", 1e6, "output spike times must not decrease"),
        ("output__spike_time_ms", 0.5, "exact output spike times do not round"),
        ("output__spike_time_ms_float16_rounded", np.inf, "rounded output spike times must be"),
        ("output__trial_ptr", 5, "output/trial_ptr does not rise from 0 to 12"),
        ("input__row_ptr", -1, "input/row_ptr does not rise"),
        ("input__channel", 9, "channel 9 is outside"),
    ],
)
def test_no_source_with_impossible_values_is_converted(
    tmp_path: Path, name: str, change: Any, message: str
) -> None:
    path = write_l5pc(tmp_path / "source.h5")
    if isinstance(change, list | np.ndarray):
        write_l5pc(path, **{name: np.array(change)})
    else:
        with h5py.File(path, "r+") as file:
            stored = file[name.replace("__", "/")]
            stored[(0, 7) if stored.ndim == 2 else 0] = change
    with pytest.raises(DataError, match=message) as caught:
        convert([path], tmp_path / "out.h5")
    assert str(caught.value).startswith(f"{path}: ")
    assert not list(tmp_path.glob("out*"))


def test_a_foreign_file_converts_to_sound_data(tmp_path: Path) -> None:
    convert([write_l5pc(tmp_path / "source.h5")], tmp_path / "out.h5")
    assert validate(tmp_path / "out.h5") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output/spike_time_ms": -2.0}, "must be finite and not negative"),
        ({"output/spike_time_ms": np.nan}, "must be finite and not negative"),
        ({"output/spike_time_ms": 1e6}, "must not decrease"),
        ({"output/rounded_spike_time_ms": np.inf}, "must be finite and not negative"),
    ],
)
def test_no_file_with_impossible_spike_times_opens(
    copy: Path, change: dict[str, float], message: str
) -> None:
    """Even where somebody has made the digest anew."""
    with h5py.File(copy, "r+") as file:
        for name, value in change.items():
            file[name][0] = value
        resealed(file)
    with pytest.raises(DataError, match=f"output spike times {message}"):
        datasets.open(copy)


def test_no_spike_lies_past_its_trial(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["output/spike_time_ms"][-1] = 1e6
        resealed(file)
    with pytest.raises(DataError, match=r"output spike times lie past 400\.391 ms"):
        datasets.open(copy)


@pytest.mark.parametrize(
    "sources", [7, [7], "x", [{"name": "\x1b[2J" + "x" * 100_000, "trials": {}}], [{}]]
)
def test_info_of_a_strange_provenance_is_lines_of_printable_text(
    copy: Path, sources: object
) -> None:
    with h5py.File(copy, "r+") as file:
        file.attrs["provenance"] = np.bytes_(json.dumps({"sources": sources}))
        resealed(file)
    done = CliRunner().invoke(command, ["info", str(copy)])
    assert done.exit_code == 0
    for line in done.output.splitlines():
        assert line.isprintable()
        assert len(line) <= 300
