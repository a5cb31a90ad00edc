"""Pickles that attack: nothing runs, and each is refused in one line, soon and in little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surrogate.datasets.sources.detect import open_source
from surrogate.datasets.sources.pickle_bytes import UnsafePickleError
from surrogate.datasets.sources.pickles import load_pickle as load_pickle_of
from surrogate.errors import DataError


def load_pickle(stream: io.BytesIO) -> Any:
    return load_pickle_of(stream, 1 << 20)


def refusal(path: Path) -> str:
    """The line that refuses the file, opened and read."""
    begun = time.process_time()
    with pytest.raises(DataError) as caught:
        list(open_source(path))
    # Refusing takes a second at most; what is hidden in these would take minutes or for ever.
    assert time.process_time() - begun < 20
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.removeprefix(str(path)).isprintable()
    assert len(line) < len(str(path)) + 250
    return line


class Runs:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (subprocess.Popen, "Popen")]
)
def test_a_pickle_that_runs_code_runs_nothing_and_is_refused_by_name(
    public_content: dict[str, Any],
    tmp_path: Path,
    protocol: int,
    function: Callable[..., Any],
    name: str,
) -> None:
    proof = tmp_path / "proof"
    command = f"open({str(proof)!r}, 'w')" if function is eval else f"touch '{proof}'"
    content = Runs(function, command) if protocol == 0 else {"Params": Runs(function, command)}
    path = tmp_path / "p"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=rf"\.{name}|instruction") as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert not proof.exists()
    if protocol >= 2:
        assert f".{name}" in str(caught.value)


# A tuple that holds itself twice, forty levels deep: its text would have 2^40 items.
SHARED = b")" + b"".join(b"r" + struct.pack("<I", n) + b"j" + struct.pack("<I", n) + b"\x86"
                         for n in range(40))  # fmt: skip
ARRAY = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01%scnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x00tb."
)

HOSTILE = {
    "type given as a shared tuple": b"\x80\x02cnumpy\ndtype\n" + SHARED + b"K\x00K\x01\x87R.",
    "shape of shared tuples": ARRAY % (SHARED + b"\x85"),
    "encode called with a tuple": b"\x80\x02c_codecs\nencode\n" + SHARED + b"U\x06latin1\x86R.",
    "encoding given as a tuple": b"\x80\x02c_codecs\nencode\nU\x01a" + SHARED + b"\x86R.",
    "encode called with a number": b"\x80\x02c_codecs\nencode\nK\x05X\x06\x00\x00\x00latin1\x86R.",
    "bytes called with a number": b"\x80\x02c__builtin__\nbytes\nK\x05\x85R.",
    "module named by a tuple": b"\x80\x04" + SHARED + b"\x8c\x01a\x93.",
    "order given as a shared tuple": (
        b"\x80\x02cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03" + SHARED + b"NNNK\x01K\x01K\x00tb."
    ),
    "keys whose hashes collide": (
        b"\x80\x02}("
        + b"".join(
            b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(1, 40_000)
        )
        + b"u."
    ),
    "thousands of marks": b"\x80\x02" + b"(" * 100_000,
    "thousands of lists": b"\x80\x02" + b"]" * 100_000,
    "thousands of memo entries": b"\x80\x04N" + b"\x94" * 100_000,
    "getattr on an admitted module": b"\x80\x02cnumpy.core.multiarray\nload\n.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    "another module's admitted name": b"\x80\x02cbuiltins\nscalar\n.",
    "persistent id": b"\x80\x02U\x01aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "instance by name": b"(ios\nsystem\n.",
    "object from class": b"(cnumpy\nndarray\no.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "ndarray called with a shape": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "state of a dictionary": b"\x80\x02}}b.",
    "state of a name": b"\x80\x02cnumpy\nndarray\n}b.",
    "object array": b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
    "structured type": b"\x80\x02cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R.",
    "string of 2 GB": b"\x80\x02T\xff\xff\xff\x7fabc",
    "string of more than any memory": b"\x80\x05\x96" + b"\xff" * 8,
    "array from a buffer of another size": (
        b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(\x96\x02\x00\x00\x00\x00\x00\x00\x00ab"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87RK\x09\x85U\x01CtR."
    ),
    "array from no buffer": b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(NNNNtR.",
    "buffer out of band": b"\x80\x05\x97.",
    "string of negative length": b"\x80\x02T\xff\xff\xff\xffabc",
    "unicode of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc",
    "memo of nothing": b"\x80\x02q\x00.",
    "memo never written": b"\x80\x02j\xff\xff\xff\xff.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff0.",
    "empty stack": b"\x80\x02R.",
    "no stop": b"\x80\x02}",
    "two results": b"\x80\x02NN.",
    "nothing": b"\x80\x02.",
    "dictionary key that is a list": b"\x80\x02}]Ns.",
    "dictionary key that is a tuple": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "name without end": b"\x80\x02c" + b"a" * 10_000,
    "array larger than its bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01J\xff\xff\xff\x0fJ\xff\xff\xff\x0f\x86cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x00tb."
    ),
    "array of negative shape": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01J\xff\xff\xff\xff\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x00tb."
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # Those with thousands of something take more, no other does.
    monkeypatch.setattr("surrogate.datasets.sources.pickle_bytes._LEAST_MEMORY", 5_500_000)
    with pytest.raises(UnsafePickleError, match="memory" if "thousands" in what else None):
        load_pickle_of(io.BytesIO(HOSTILE[what]), 0)
    (tmp_path / "p").write_bytes(HOSTILE[what])
    refusal(tmp_path / "p")


def shared_tuples() -> Any:
    """A tuple that holds itself twice, forty levels deep: its text would have 2^40 items."""
    value: Any = ()
    for _ in range(40):
        value = (value, value)
    return value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "where",
    [
        *(("Params", name) for name in ("allSegmentsType", "allSegmentsLength", "randomSeed")),
        *(("Params", f"{kind}SynapseType") for kind in ("excitatory", "inhibitory")),
        ("Results", "listOfSingleSimulationDicts"),
        *(("Results", "listOfSingleSimulationDicts", 0, name)
          for name in ("somaVoltageLowRes", "somaVoltageHighRes", "exInputSpikeTimes",
                       "outputSpikeTimes")),
        ("Results", "listOfSingleSimulationDicts", 0, "inhInputSpikeTimes", 0),
    ],
    ids=lambda where: str(where[-1]),
)  # fmt: skip
def test_shared_tuples_in_the_place_of_anything_are_refused(
    public_content: dict[str, Any], tmp_path: Path, protocol: int, where: tuple[Any, ...]
) -> None:
    holder: Any = public_content
    for step in where[:-1]:
        holder = holder[step]
    path = tmp_path / "p"
    for value in (shared_tuples(), [shared_tuples()] * 4):
        holder[where[-1]] = value
        path.write_bytes(pickle.dumps(public_content, protocol=protocol))
        if where[-1] == "randomSeed" and protocol >= 2:
            list(open_source(path))  # a seed that is no number is none
        else:
            refusal(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_shared_by_many_places_are_not_read_again_and_again(
    public_content: dict[str, Any], tmp_path: Path, protocol: int
) -> None:
    """A few MB of events, fetched from the memo for each synapse of each trial."""
    trials = public_content["Results"]["listOfSingleSimulationDicts"]
    events = np.ones(1 << 20, np.uint8)
    trials[0]["exInputSpikeTimes"] = {segment: events for segment in range(4)}
    trials[0]["inhInputSpikeTimes"] = {0: events}
    path = tmp_path / "p"
    path.write_bytes(pickle.dumps(public_content, protocol=protocol))
    assert "trial 0 has more than 4194304 input spikes" in refusal(path)
    del trials[0]["inhInputSpikeTimes"][0]
    public_content["Results"]["listOfSingleSimulationDicts"] = [trials[0]] * 100
    path.write_bytes(pickle.dumps(public_content, protocol=protocol))
    with pytest.MonkeyPatch.context() as smaller:
        smaller.setattr("surrogate.datasets.sources.pickle_bytes._LEAST_BYTES", 1 << 22)
        assert "more numbers than fit the file" in refusal(path)
    public_content["Results"]["listOfSingleSimulationDicts"] = [trials[0]] * 20_000
    path.write_bytes(pickle.dumps(public_content, protocol=protocol))
    assert "holds 20000 trials" in refusal(path)


@pytest.mark.parametrize("letters", [65, 1_000_000])
def test_long_names_of_segments_are_refused(
    public_content: dict[str, Any], tmp_path: Path, letters: int
) -> None:
    public_content["Params"]["allSegmentsType"] = ["a" * letters] * 4
    (tmp_path / "p").write_bytes(pickle.dumps(public_content, protocol=2))
    assert "allSegmentsType lists 4 segments, or not their types" in refusal(tmp_path / "p")


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_of_text_is_refused_with_its_cure(
    public_content: dict[str, Any], tmp_path: Path, protocol: int
) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(public_content, protocol=protocol))
    assert "save it with protocol 2 or later" in refusal(tmp_path / "p")


@pytest.mark.parametrize("step", [2**16, 2**20])
def test_small_keys_are_taken_whatever_their_hashes(step: int) -> None:
    keys = range(-(2**31) + 1, 2**31, step)
    begun = time.process_time()
    assert load_pickle(io.BytesIO(pickle.dumps(dict.fromkeys(keys), 2))) == dict.fromkeys(keys)
    assert time.process_time() - begun < 5


# What a byte of instructions may become, and how it may be hidden.
BOMBS = {
    "nothing": b"N",
    "marks": b"(",
    "lists": b"]",
    "lists of one": b"]K\x01a",
    "dictionaries": b"}",
    "dictionaries of one": b"}K\x01K\x01s",
    "nested tuples": b")\x85\x85\x85\x85\x85\x85\x85\x85",
    "numbers": b"J\xff\xff\xff\x00",
    "large numbers": b"\x8a\x20" + b"\x01" * 32,
    "fractions": b"G?\xf1\x00\x00\x00\x00\x00\x01",
    "strings": b"\x8c\x02ab",
    "wide strings": b"\x8c\x20" + "😀".encode() + b"a" * 28,
    "bytes": b"C\x02ab",
    "memo entries": b"K\x00\x94",
    "copies": b"h\x00",
    "protocols": b"\x80\x02",
    "frames": b"\x95" + b"\x00" * 8,
}


@pytest.mark.parametrize("what", BOMBS)
def test_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    module = "surrogate.datasets.sources.pickle_bytes."
    monkeypatch.setattr(module + "_LEAST_MEMORY", 1 << 22)
    monkeypatch.setattr(module + "_CHUNK", 1 << 12)
    bomb = io.BytesIO(b"\x80\x02Nq\x00" + BOMBS[what] * ((1 << 23) // len(BOMBS[what])))
    tracemalloc.start()
    try:
        with pytest.raises(UnsafePickleError, match="asks for more than 4 MiB of memory"):
            load_pickle_of(bomb, 0)
        assert tracemalloc.get_traced_memory()[1] < 2 << 22
    finally:
        tracemalloc.stop()


MEASURED = """
import sys
from pathlib import Path
from surrogate.datasets.sources.detect import open_source
from surrogate.errors import DataError
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
before = peak()
try: list(open_source(Path(sys.argv[1])))
except DataError as error: print(peak() - before, str(error).removeprefix(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
@pytest.mark.parametrize("what", ["lists of one", "one string"])
def test_a_bomb_takes_no_more_memory_than_data(
    tmp_path: Path, compress: Callable[[bytes], bytes], what: str
) -> None:
    """In two members, which are read as one."""
    content = BOMBS.get(what, b"\x00" * 16) * (1 << 22)
    if what == "one string":
        content = b"T" + struct.pack("<I", len(content)) + content
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    (tmp_path / "p").write_bytes(compress(b"\x80\x02" + halves[0]) + compress(halves[1]))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "p"], capture_output=True, text=True, timeout=60
    )
    taken, line = done.stdout.split(maxsplit=1)
    assert ("more than" if what in BOMBS else "cut off") in line
    assert int(taken) < 400_000  # kB


@pytest.mark.parametrize("what", ["nested lists", "nested tuples", "a list in itself"])
def test_deep_nesting_neither_crashes_nor_hangs(tmp_path: Path, what: str) -> None:
    value = {
        "nested lists": b"]" * 200_000 + b"a" * 199_999,
        "nested tuples": b")" + b"\x85" * 200_000,
        "a list in itself": b"]q\x00h\x00ah\x00a",
    }[what]
    path = tmp_path / "deep"
    path.write_bytes(
        b"\x80\x02}(U\x06Params}U\x0fallSegmentsType" + value + b"sU\x07Results}U\x1b"
        b"listOfSingleSimulationDicts]Nasu."
    )
    script = (
        "import sys; from pathlib import Path\n"
        "from surrogate.datasets.sources.detect import open_source\n"
        "try: open_source(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "DataError")


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
def test_damaged_compression_is_refused(
    public_content: dict[str, Any], tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(pickle.dumps(public_content, protocol=2))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    for content in (packed[: len(packed) // 2], packed[:12], bytes(damaged)):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(DataError):
            list(open_source(tmp_path / "p"))
