"""Whatever the bytes, a reader gives data or one line: never a traceback, a crash or a hang."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surrogate import datasets
from surrogate.datasets.sources.detect import open_source
from surrogate.datasets.sources.pickle_bytes import UnsafePickleError
from surrogate.datasets.sources.pickles import load_pickle
from surrogate.datasets.validate import validate
from surrogate.errors import DataError

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

#: Places and new values of bytes, and where to cut, both relative to the length.
damage = st.tuples(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9))),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)


def damaged(content: bytes, how: tuple[list[tuple[float, bytes]], float]) -> bytes:
    edits, cut = how
    changed = bytearray(content)
    for place, new in edits:
        start = int(place * len(content))
        changed[start : start + len(new)] = new
    return bytes(changed[: int(cut * len(changed))])


def read_everything(path: Path) -> None:
    with datasets.open(path) as data:
        starts = [0] * len(data)
        data.events(range(len(data)), starts, data.n_steps)
        data.voltage(range(len(data)), starts, data.n_steps)
        data.spikes(range(len(data)), starts, data.n_steps, labels="legacy")
    validate(path)


def refuses_or_reads(read: Callable[[Path], Any], path: Path) -> None:
    refusals = []
    try:
        read(path)
    except DataError as error:
        refusals.append(str(error))
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in refusals)


@pytest.fixture
def small_pickle(public_content: dict[str, Any]) -> bytes:
    return pickle.dumps(public_content, protocol=2)


@FUZZ
@given(how=damage)
def test_a_damaged_pickle_is_read_or_refused(
    small_pickle: bytes, tmp_path: Path, how: tuple[list[tuple[float, bytes]], float]
) -> None:
    path = tmp_path / "damaged.p"
    path.write_bytes(damaged(small_pickle, how))
    refuses_or_reads(lambda path: list(open_source(path)), path)


@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_pickle_or_refused(content: bytes) -> None:
    with contextlib.suppress(UnsafePickleError):
        load_pickle(io.BytesIO(b"\x80\x02" + content), 2**20)


INSTRUCTIONS = [
    bytes([code]) for code in b"}])(tasuNJKMGUXTqrhjcRb\x85\x86\x87\x88\x8a\x8c\x93\x94"
]


@FUZZ
@given(
    program=st.lists(
        st.one_of(
            st.sampled_from(INSTRUCTIONS),
            st.binary(max_size=4),
            st.sampled_from([b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"U\x02i8K\x00K\x01\x87"]),
            st.just(b"cnumpy.core.multiarray\n_reconstruct\n"),
        ),
        max_size=60,
    )
)
def test_any_program_of_known_instructions_ends_in_data_or_refusal(program: list[bytes]) -> None:
    with contextlib.suppress(UnsafePickleError):
        load_pickle(io.BytesIO(b"\x80\x02" + b"".join(program) + b"."), 2**20)


@FUZZ
@given(how=damage)
def test_a_damaged_data_file_is_read_or_refused(
    toy_data: Path, tmp_path: Path, how: tuple[list[tuple[float, bytes]], float]
) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(damaged(toy_data.read_bytes(), how))
    refuses_or_reads(read_everything, path)


@FUZZ
@given(place=st.integers(0, 2**31), value=st.integers(1, 255))
def test_one_changed_byte_is_found_or_harmless(
    toy_data: Path, tmp_path: Path, place: int, value: int
) -> None:
    content = bytearray(toy_data.read_bytes())
    content[place % len(content)] ^= value
    path = tmp_path / "damaged.h5"
    path.write_bytes(content)
    with datasets.open(toy_data) as data:
        expected = data.digest
    try:
        sound = validate(path) == []
    except DataError:
        return
    if sound:
        with datasets.open(path) as data:
            assert data.digest == expected


@pytest.mark.slow
def test_thousands_of_damaged_data_files_crash_nothing(toy_data: Path, tmp_path: Path) -> None:
    """In a process of its own: a crash inside HDF5 would end this one."""
    script = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_fuzz import damaged, read_everything, refuses_or_reads\n"
        "content, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])\n"
        "draw = random.Random(0)\n"
        "for _ in range(4000):\n"
        "    edits = [(draw.random() ** 2, draw.randbytes(draw.randint(1, 9))) for _ in range(3)]\n"
        "    path.write_bytes(damaged(content, (edits, draw.choice([1, 1, draw.random()]))))\n"
        "    refuses_or_reads(read_everything, path)\n"
    )
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", script, toy_data, tmp_path / "damaged.h5", here],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
