"""Conversion that is interrupted or finds the disk full: nothing is half written."""

from __future__ import annotations

import dataclasses
import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surrogate import datasets
from surrogate.datasets.convert import convert
from surrogate.datasets.sink import Sink
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import DataError


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
