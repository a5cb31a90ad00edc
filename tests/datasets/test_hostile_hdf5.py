"""HDF5 made to harm: refused before a byte of it is read, whatever it points to or unpacks to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import helpers.hdf5
from helpers.hdf5 import resealed, write_l5pc, zeros
from surrogate import datasets
from surrogate.benchmarks.data_path import alone, peak_memory_mb
from surrogate.datasets.convert import convert
from surrogate.datasets.info import summary
from surrogate.datasets.layout import MAX_CHUNK_BYTES
from surrogate.datasets.validate import validate
from surrogate.errors import DataError, SurrogateError

Change = Callable[[h5py.File, str, str], None]


def soft_link(file: h5py.File, name: str, pipe: str) -> None:
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def soft_link_above(file: h5py.File, name: str, pipe: str) -> None:
    group = name.partition("/")[0]
    file.move(group, "elsewhere")
    file[group] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File, name: str, pipe: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(pipe, name)


def external_link_above(file: h5py.File, name: str, pipe: str) -> None:
    group = name.partition("/")[0]
    del file[group]
    file[group] = h5py.ExternalLink(pipe, group)


def virtual(file: h5py.File, name: str, pipe: str) -> None:
    old = file[name]
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(pipe, name, old.shape, old.dtype)
    del file[name]
    file.create_virtual_dataset(name, layout)


def external_storage(file: h5py.File, name: str, pipe: str) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    whole = int(np.prod(shape)) * dtype.itemsize
    file.create_dataset(name, shape, dtype, external=[(pipe, 0, whole)])


def a_circle(file: h5py.File, name: str, pipe: str) -> None:
    del file[name]
    group = file.create_group(name)
    group["again"] = group


def replaced(**options: Any) -> Change:
    def change(file: h5py.File, name: str, pipe: str) -> None:
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def n_bit(file: h5py.File, name: str, pipe: str) -> None:
    """A filter of HDF5's own, of which h5py knows nothing."""
    old = file[name]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(old.chunks or old.shape)
    plist.set_filter(h5py.h5z.FILTER_NBIT)
    space, stored = old.id.get_space(), old.id.get_type()
    del file[name]
    h5py.h5d.create(file.id, name.encode(), stored, space, plist)


def of_type(dtype: Any) -> Change:
    def change(file: h5py.File, name: str, pipe: str) -> None:
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, shape, dtype)

    return change


def committed_type(file: h5py.File, name: str, pipe: str) -> None:
    values = file[name][:]
    file["type"] = values.dtype
    del file[name]
    file.create_dataset(name, data=values, dtype=file["type"])


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    """A pipe without a writer: opening it waits until the alarm interrupts, which fails."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 5, 0.1)
    yield str(path)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert not rung


CHANGES = {
    "a soft link": (soft_link, "not stored in the file"),
    "a soft link above": (soft_link_above, "not stored in the file"),
    "an external link": (external_link, "not stored in the file"),
    "an external link above": (external_link_above, "not stored in the file"),
    "a virtual dataset": (virtual, "not stored in the file"),
    "external storage": (external_storage, "not stored in the file"),
    "a circle of groups": (a_circle, "not stored in the file"),
    "LZF": (replaced(compression="lzf", chunks=True), "filter 32000"),
    "n-bit": (n_bit, "filter 5"),
    "a committed type": (committed_type, "is of type"),
    "texts": (of_type(h5py.string_dtype()), "is of type another kind"),
    "references": (of_type(h5py.ref_dtype), "is of type another kind"),
    "rows of variable length": (of_type(h5py.vlen_dtype(np.int32)), "is of type another kind"),
    "an enumeration": (of_type(h5py.enum_dtype({"a": 0, "b": 1})), "is of type another kind"),
    "a compound": (of_type(np.dtype([(f"f{n}", "i4") for n in range(999)])), "another kind"),
    "complex numbers": (of_type("c8"), "is of type another kind"),
    "big-endian numbers": (of_type(">i8"), "is of type >i8"),
    "numbers of another size": (of_type("i2"), "is of type int16"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", ["voltage/soma", "output/trial_ptr"])
def test_an_array_that_is_not_plain_is_refused(
    copy: Path, pipe: str, name: str, change: Change, message: str
) -> None:
    with h5py.File(copy, "r+") as file:
        change(file, name, pipe)
    with pytest.raises(DataError, match=message) as caught:
        datasets.open(copy)
    assert str(caught.value).startswith(f"{copy}: {name.partition('/')[0]}")
    assert len(str(caught.value)) < len(str(copy)) + 200


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_foreign_array_that_is_not_plain_is_refused(
    tmp_path: Path, pipe: str, change: Change, message: str
) -> None:
    source = write_l5pc(tmp_path / "source.h5")
    with h5py.File(source, "r+") as file:
        change(file, "output/trial_ptr", pipe)
    with pytest.raises(DataError, match=message):
        convert([source], tmp_path / "out.h5")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["input/amplitude", "trial/exact_times"])
def test_a_link_in_the_place_of_an_optional_array_is_refused(copy: Path, name: str) -> None:
    with h5py.File(copy, "r+") as file:
        file[name] = h5py.SoftLink("/input/gap")
    with pytest.raises(DataError, match=f"{name} is missing or not stored in the file"):
        datasets.open(copy)


def test_thousands_of_groups_are_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        for number in range(3000):
            file.create_group(f"voltage/v{number}")
    with pytest.raises(DataError, match="voltage holds 3001 arrays"):
        datasets.open(copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", np.bytes_(b"x" * 1_000_000), "format is None"),
        ("format", np.array([b"surrogate-spikes"]), "format is None"),
        ("format", h5py.Empty("S16"), "format is None"),
        ("n_trials", np.array([12]), "n_trials is None"),
        ("n_trials", 12.5, "n_trials is 12.5"),
        ("dt_ms", np.nan, "dt_ms is nan"),
        ("digest", np.bytes_(b"\xff" * 64), "digest: damaged HDF5"),
        ("provenance", np.bytes_(b" " * (1 << 24) + b"{}"), "never finished"),
    ],
)
def test_an_attribute_of_another_kind_or_size_is_refused(
    copy: Path, name: str, value: Any, message: str
) -> None:
    with h5py.File(copy, "r+", libver=("v110", "v110")) as file:
        file.attrs[name] = value
    with pytest.raises(DataError, match=message) as caught:
        datasets.open(copy)
    assert len(str(caught.value)) < len(str(copy)) + 200


def test_an_attribute_that_is_a_reference_or_committed_is_refused(copy: Path) -> None:
    for value in ("reference", "committed"):
        with h5py.File(copy, "r+") as file:
            if value == "reference":
                file.attrs["version"] = file.ref
            else:
                file["type"] = np.dtype("i8")
                file.attrs.create("version", 2, dtype=file["type"])
        with pytest.raises(DataError, match="version is None"):
            datasets.open(copy)


def memory_of(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """What ``read`` says about ``path``, and how many MB it took."""
    before, said = peak_memory_mb(), "nothing"
    try:
        said = str(read(path))
    except SurrogateError as error:
        said = str(error)
    return {"said": said, "mb": peak_memory_mb() - before}


def describe(path: Path) -> dict[str, Any]:
    with datasets.open(path) as data:
        return summary(data)


def test_tables_that_unpack_to_gigabytes_are_refused_with_their_size(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        zeros(file, "input/silenced", (1 << 29,), (1 << 17,), "<u2")
    assert copy.stat().st_size < 3_000_000
    for read in (describe, validate):
        found = alone(memory_of, read, copy)
        assert "its tables take 1,074 MB, more than the 134 MB that a file of 1" in found["said"]
        assert found["mb"] < 100


def test_a_trial_of_a_thousand_million_events_is_refused_with_their_number(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        n_events = 1 << 29
        zeros(file, "input/gap", (n_events,), (1 << 18,), "<u2")
        file["input/trial_ptr"][-1] = n_events
        resealed(file)
    found = alone(memory_of, validate, copy)
    assert "input events, expected at most 33554432" in found["said"]
    assert found["mb"] < 100


def test_a_bin_of_more_events_than_channels_is_refused_before_they_are_read(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        n_events = int(file["input/trial_ptr"][0]) + 12 * 60_000
        zeros(file, "input/gap", (n_events,), (1 << 16,), "<u2")
        counts = np.zeros((12, 400), np.uint16)
        counts[:, 3] = 60_000
        file["input/count"][...] = counts
        file["input/trial_ptr"][...] = np.arange(13) * 60_000
        resealed(file)
    with datasets.open(copy) as data, pytest.raises(DataError, match="counts 60000 input events"):
        data.events(range(12), [0] * 12, 400)


def test_a_batch_too_large_for_the_memory_is_refused_with_its_number(tmp_path: Path) -> None:
    header = datasets.Header(400, datasets.Channels.of(excitatory=32_000), 1.0)
    trial = datasets.Trial.from_spikes(
        header,
        np.arange(32_000),
        np.zeros(32_000),
        spike_time_ms=[],
        voltage_mV={"soma": np.zeros(400)},
    )
    datasets.write(tmp_path / "dense.h5", header, [trial])
    with datasets.open(tmp_path / "dense.h5") as data:
        assert data.events([0] * 32, [0] * 32, 400).channel.numel() == 32 * 32_000
        with pytest.raises(
            DataError, match="hold 67200000 input events, expected at most 67108864"
        ):
            data.events([0] * 2100, [0] * 2100, 1)


def test_a_foreign_trial_of_a_thousand_million_events_is_refused(tmp_path: Path) -> None:
    source = write_l5pc(tmp_path / "source.h5")
    with h5py.File(source, "r+") as file:
        zeros(file, "input/channel", (1 << 29,), (1 << 18,), "<u2")
        file["input/row_ptr"][300:] = 1 << 29
    with pytest.raises(DataError, match="trial 0 has 536870912 input events, expected at most"):
        convert([source], tmp_path / "out.h5")


def test_many_bins_and_voltages_are_refused_with_their_number(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        for name in ("input/count", *(f"voltage/{v}" for v in ("soma", "a", "b", "c"))):
            dtype = "<u2" if name == "input/count" else "<f2"
            zeros(file, name, (12, 10_000_000), (1, 200_000), dtype)
        file.attrs["n_steps"] = 10_000_000
        resealed(file)
    found = alone(memory_of, validate, copy)
    assert "trials of 10000000 bins with 4 voltages" in found["said"]
    assert found["mb"] < 100


def put_bomb(path: Path, name: str, width: int, mb: int) -> None:
    """Make of the array ``name`` one chunk of ``width`` columns that unpacks to ``mb`` MiB."""
    with h5py.File(path, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(
            name,
            shape,
            dtype,
            maxshape=(*shape[:-1], None),
            chunks=(*shape[:-1], width),
            compression="gzip",
        ).id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(mb << 20), 9))


@pytest.mark.parametrize(
    ("width", "message"),
    [(2000, "has a chunk that is larger"), (500_000, "is stored in chunks of 12,000,000 bytes")],
)
def test_a_chunk_that_could_unpack_to_gigabytes_is_refused(
    copy: Path, width: int, message: str
) -> None:
    put_bomb(copy, "input/count", width, 100)
    with pytest.raises(DataError, match=f"input/count {message}"):
        datasets.open(copy)


@pytest.mark.slow
def test_no_chunk_that_is_read_unpacks_to_more_than_half_a_gigabyte(copy: Path) -> None:
    """HDF5 makes room for whatever comes out of a chunk."""
    put_bomb(copy, "input/count", MAX_CHUNK_BYTES // 24, 510)
    found = alone(memory_of, validate, copy)
    assert "trial 11: counts 0 input events but stores" in found["said"]
    assert 100 < found["mb"] < 1000


def test_silent_trials_may_be_packed_as_far_as_they_go(tmp_path: Path) -> None:
    steps = 1_000_000
    header = datasets.Header(steps, datasets.Channels.of(excitatory=3), 0.1)
    voltage = {"soma": np.full(steps, -70)}
    trials = (
        datasets.Trial.from_spikes(header, [0], [n], spike_time_ms=[], voltage_mV=voltage)
        for n in range(4)
    )
    datasets.write(tmp_path / "silent.h5", header, trials)
    assert (tmp_path / "silent.h5").stat().st_size < 100_000
    assert validate(tmp_path / "silent.h5") == []
    with h5py.File(tmp_path / "silent.h5") as file:
        assert file["input/count"].chunks == (1, 131_072)


def test_a_file_open_for_writing_elsewhere_is_not_called_damaged(copy: Path) -> None:
    for mode in ("r+", "a"):
        with (
            h5py.File(copy, mode, libver=("v110", "v110")),
            pytest.raises(
                DataError, match="is open for writing elsewhere; close it there, or wait"
            ),
        ):
            datasets.open(copy)
    with h5py.File(copy, "r"):
        datasets.open(copy).close()


def test_a_file_whose_writer_died_says_so(copy: Path) -> None:
    subprocess.run([sys.executable, helpers.hdf5.__file__, copy], check=True)
    with pytest.raises(DataError, match="the program that wrote it ended without closing it"):
        datasets.open(copy)


def test_a_file_system_without_locks_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: Any, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    datasets.open(copy).close()


def test_another_hdf5_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
        file.attrs["format"] = "somebody's"
    for read in (datasets.open, lambda path: convert([path], tmp_path / "out.h5")):
        with pytest.raises(DataError, match=r"other\.h5: .*format"):
            read(tmp_path / "other.h5")
