"""Conversion: interrupted or not, one job or more, the same data."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from surrogate import datasets
from surrogate.benchmarks.data_path import alone, measure_conversion
from surrogate.benchmarks.public_pickle import write_public_pickle
from surrogate.datasets.convert import convert, draw_splits
from surrogate.datasets.sink import Sink
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import DataError, UsageError


@pytest.fixture
def pickles(public_content: dict[str, Any], tmp_path: Path) -> list[Path]:
    """Four public pickles in small, in a folder with a space in its name."""
    folder = tmp_path / "down loads"
    folder.mkdir()
    paths = []
    for number in range(4):
        content = public_content
        content["Params"]["randomSeed"] = number
        for trial in content["Results"]["listOfSingleSimulationDicts"]:
            trial["exInputSpikeTimes"] = {0: [number + 1, 40 + number]}
            trial["inhInputSpikeTimes"][np.int64(1)].append(np.int64(299))
            trial["somaVoltageLowRes"] = trial["somaVoltageLowRes"] - np.float16(1)
        paths.append(folder / f"sim {number}.p")
        paths[-1].write_bytes(pickle.dumps(content, protocol=2))
    return paths


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


def test_an_interrupted_conversion_goes_on_where_it_stopped(
    pickles: list[Path], tmp_path: Path
) -> None:
    whole = convert(pickles, tmp_path / "whole.h5")
    broken = pickles[2].read_bytes()
    pickles[2].write_bytes(broken[:-50])
    with pytest.raises(DataError, match=r"sim 2\.p"):
        convert(pickles, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    pickles[2].write_bytes(broken)
    done = convert(pickles, tmp_path / "out.h5")
    assert done.n_reused == 2
    assert done.digest == whole.digest
    assert dataclasses.replace(done, path=whole.path, n_reused=0) == whole


def test_a_killed_conversion_leaves_nothing_half_written_and_goes_on(
    pickles: list[Path], tmp_path: Path
) -> None:
    expected = convert(pickles, tmp_path / "whole.h5").digest
    out = tmp_path / "out.h5"
    script = (
        "import sys, time\n"
        "from surrogate.datasets.convert import convert\n"
        "def slowly(*news): time.sleep(0.05)\n"
        "if __name__ == '__main__': convert(sys.argv[2:], sys.argv[1], progress=slowly)"
    )
    reused = 0
    for parts_to_wait_for in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", script, out, *pickles])
        folder = tmp_path / "out.h5.parts"
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.h5"))) < parts_to_wait_for and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or validate(out) == []
        reused = max(reused, len(list(folder.glob("*.h5"))))
    done = convert(pickles, out)
    assert done.n_reused >= min(reused, 4) - 1
    assert done.digest == expected
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.h5"]


def test_workers_end_with_the_process_that_started_them(
    pickles: list[Path], tmp_path: Path
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import multiprocessing\n"
        "from surrogate.datasets.convert import _follow_parent\n"
        "def name(): print(os.getpid(), flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with ProcessPoolExecutor(1, context, _follow_parent) as pool:\n"
        "        pool.submit(name).result()\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        state = Path(f"/proc/{worker}/stat")
        if state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its parent")


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


def test_a_full_disk_is_one_line_and_leaves_nothing(pickles: list[Path], tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    script = (
        "import resource, signal, sys\n"
        "from surrogate.datasets.convert import convert\n"
        "from surrogate.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try: convert(sys.argv[2:], sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out.h5", *pickles],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(tmp_path.glob("*out*")) == []


def test_hdf5_closes_cleanly_whenever_the_disk_fills(toy_data: Path, tmp_path: Path) -> None:
    with datasets.open(toy_data) as data:
        trials, header = list(data), data.header
    for limit in range(0, 30_000, 3_001):
        writer = DatasetWriter(tmp_path / "out.h5", header)
        full = FullDisk(limit)
        writer._sink._file.close()
        writer._sink._file = full  # type: ignore[assignment]
        with pytest.raises(OSError, match="full"), writer:
            list(map(writer.append, trials * 3))


class FullDisk:
    """An unbuffered file in memory that takes ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.content, self.position = limit, bytearray(), 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = len(self.content) + offset if whence == os.SEEK_END else offset
        return self.position

    def tell(self) -> int:
        return self.position

    def write(self, data: bytes) -> int:
        fits = data[: max(self.limit - self.position, 0)]
        if data and not fits:
            raise OSError(28, "full")
        self.content = self.content.ljust(self.position, b"\0")
        self.content[self.position : self.position + len(fits)] = fits
        self.position += len(fits)
        return len(fits)

    def readinto(self, target: memoryview) -> int:
        found = self.content[self.position : self.position + len(target)]
        target[: len(found)] = found
        return len(found)

    def truncate(self, size: int) -> int:
        if size > self.limit:
            raise OSError(28, "full")
        self.content = self.content[:size].ljust(size, b"\0")
        return size

    def close(self) -> None:
        pass


def test_the_sink_reads_back_what_could_not_be_written(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink")
    sink._file.close()
    sink._file = FullDisk(6)  # type: ignore[assignment]
    for offset, content in ((0, b"abcdefgh"), (4, b"XY"), (10, b"z")):
        sink.seek(offset)
        assert sink.write(content) == len(content)
    read = bytearray(12)
    sink.seek(0)
    sink.readinto(memoryview(read))
    assert bytes(read) == b"abcdXYgh\0\0z\0"
    with pytest.raises(OSError, match="full"):
        sink.check()


def test_the_file_needs_nothing_but_standard_filters(pickles: list[Path], tmp_path: Path) -> None:
    convert(pickles, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        found = {file[name].compression for name in ("input/gap", "input/count", "voltage/soma")}
    assert found == {"gzip"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_and_keeps_what_was_read(
    pickles: list[Path], tmp_path: Path, number: signal.Signals
) -> None:
    # A list of sixty million times None keeps one of the two processes busy all the while.
    slow = tmp_path / "slow.p"
    with gzip.open(slow, "wb", compresslevel=1) as packed:
        packed.write(b"\x80\x02]")
        for _ in range(60):
            packed.write(b"Na" * 1_000_000)
    folder = tmp_path / "out.h5.parts"
    command = [sys.executable, "-m", "surrogate.cli.main", "data", "convert", slow, *pickles]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "out.h5", "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, and so perhaps these tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.h5"))) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "Interrupted"
    assert "run the command again" in errors
    assert "Traceback" not in errors
    assert len(list(folder.glob("*.h5"))) == 4
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.slow
def test_converting_a_pickle_takes_less_than_twice_its_size_in_memory(tmp_path: Path) -> None:
    source = tmp_path / "public.p"
    write_public_pickle(source, 16)
    measured = alone(measure_conversion, source)
    assert measured["trials"] == 16
    assert 0.1 < measured["memory_per_source_mb"] < 2
