"""Public pickles: read in full, never run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surrogate.datasets.sources.detect import open_source
from surrogate.datasets.sources.l5pc_hdf5 import L5pcFile
from surrogate.datasets.sources.l5pc_pickle import PickleFile
from surrogate.datasets.sources.pickle_bytes import UnsafePickleError
from surrogate.datasets.sources.pickles import _INSTRUCTIONS, PickledArray, _Machine
from surrogate.datasets.sources.pickles import load_pickle as load_pickle_of
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError


def load_pickle(stream: io.BytesIO) -> Any:
    return load_pickle_of(stream, 1 << 26)


def trials_of(path: Path) -> list[Trial]:
    return list(PickleFile(path))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes an object as a pickle of protocol 2 and gives its path."""

    def save(content: Any) -> Path:
        path = tmp_path / "any name at all"
        path.write_bytes(pickle.dumps(content, protocol=2))
        return path

    return save


def python2_numbers(values: np.ndarray, first_memo: int = 400) -> bytes:
    """A type and the start of a list of numbers, in the instructions that Python 2 uses."""
    kind = values.dtype.str[1:].encode()
    text = b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x01cnumpy\ndtype\nq\x02"
    text += b"U\x02" + kind + b"q\x03K\x00K\x01\x87q\x04Rq\x05"
    text += b"(K\x03U\x01<q\x06NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x07b"
    records = b"]q\x08("
    for index, value in enumerate(values):
        memo = [struct.pack("<I", first_memo + 3 * index + k) for k in range(3)]
        records += b"h\x01h\x05U\x08" + value.tobytes()
        records += b"r" + memo[0] + b"\x86r" + memo[1] + b"Rr" + memo[2]
    return text + records


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_python_s_pickle_gives_the_same_trials(
    public_content: dict[str, Any], tmp_path: Path, protocol: int
) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(public_content, protocol=protocol))
    trials = trials_of(tmp_path / "p")
    assert len(trials) == 3
    source = public_content["Results"]["listOfSingleSimulationDicts"]
    for trial, given in zip(trials, source, strict=True):
        assert trial.exact_times
        assert trial.spike_time_ms.tolist() == [401 / 8, 1203 / 8, 2001 / 8]
        np.testing.assert_array_equal(trial.voltage_mV["soma"], given["somaVoltageLowRes"])
        expected = {
            (int(t), int(s)) for s, times in given["exInputSpikeTimes"].items() for t in times
        }
        expected |= {
            (int(t), 4 + int(s)) for s, times in given["inhInputSpikeTimes"].items() for t in times
        }
        rows = np.repeat(np.arange(300), np.diff(trial.row_ptr))
        assert list(zip(rows.tolist(), trial.channel.tolist(), strict=True)) == sorted(expected)
        assert trial.problems(open_source(tmp_path / "p").header) == []
        assert 2 not in trial.channel
    assert [trial.source for trial in trials] == [(77, 0), (77, 1), (77, 2)]


@pytest.mark.parametrize("compress", [bytes, lzma.compress, gzip.compress, bz2.compress])
def test_compression_is_told_by_content(
    public_content: dict[str, Any], tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "file.h5").write_bytes(compress(pickle.dumps(public_content, protocol=2)))
    source = open_source(tmp_path / "file.h5")
    assert len(source) == 3
    assert [len(trial.spike_time_ms) for trial in source] == [3, 3, 3]


def test_the_genuine_pickle_equals_its_hdf5_twin(shared_data: Path) -> None:
    source = PickleFile(shared_data / "l5pc-kaggle-format.p.xz")
    twin = L5pcFile(shared_data / "l5pc-train.h5")
    assert twin.header.difference(source.header) is None
    pairs = list(zip(source, twin, strict=False))
    assert [mine.source for mine, _ in pairs] == [(100500, 0), (100500, 1)]
    for mine, theirs in pairs:
        assert mine.exact_times
        assert mine.digest() == theirs.digest()


def test_an_event_at_zero_silences_and_one_within_the_first_ms_does_not(
    public_content: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    trial = public_content["Results"]["listOfSingleSimulationDicts"][0]
    trial["exInputSpikeTimes"] = {2: [0, 10], 0: [0.5]}
    trial["inhInputSpikeTimes"] = {1: np.array([0.0, 5.0]), 3: []}
    read = trials_of(saved(public_content))[0]
    assert read.silenced.tolist() == [2, 5]
    assert read.channel[: read.row_ptr[1]].tolist() == [0, 2, 5]


def test_events_of_a_channel_within_one_ms_are_one(
    public_content: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    trial = public_content["Results"]["listOfSingleSimulationDicts"][0]
    trial["exInputSpikeTimes"] = {1: [7, 7.25, 7.999, 8]}
    trial["inhInputSpikeTimes"] = {}
    read = trials_of(saved(public_content))[0]
    assert np.flatnonzero(np.diff(read.row_ptr)).tolist() == [7, 8]
    assert read.channel.tolist() == [1, 1]


@pytest.mark.parametrize("change", ["one spike more in the list", "no fine voltage"])
def test_times_that_cannot_be_recovered_are_kept_and_flagged(
    public_content: dict[str, Any], saved: Callable[[Any], Path], change: str
) -> None:
    trial = public_content["Results"]["listOfSingleSimulationDicts"][1]
    if change == "no fine voltage":
        del trial["somaVoltageHighRes"]
    else:
        trial["outputSpikeTimes"] = np.array([50, 150, 200, 250], np.float16)
    read = trials_of(saved(public_content))
    assert [t.exact_times for t in read] == [True, False, True]
    np.testing.assert_array_equal(read[1].spike_time_ms, trial["outputSpikeTimes"])


def test_dendritic_voltages_make_no_difference(
    public_content: dict[str, Any], saved: Callable[[Any], Path]
) -> None:
    without = [trial.digest() for trial in trials_of(saved(public_content))]
    for trial in public_content["Results"]["listOfSingleSimulationDicts"]:
        trial["dendriticVoltagesLowRes"] = np.zeros((4, 300), np.float16)
    assert [trial.digest() for trial in trials_of(saved(public_content))] == without


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint64])
def test_runs_of_python_2_numbers_are_read_at_once_and_as_pickle_reads_them(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 20_000, 1000).astype(dtype)
    # The last look-up fetches the 7th number again from the memo of the run.
    text = python2_numbers(values) + b"j" + struct.pack("<I", 400 + 3 * 6 + 2) + b"e\x87."
    machine = _Machine(io.BytesIO(text), len(text))
    *_, mine = machine.run()
    assert mine == [*values.tolist(), values[6].item()]
    assert mine == pickle.loads(text, encoding="latin1")[-1]
    assert machine._objects < 20


def test_a_run_of_numbers_across_the_end_of_the_buffer_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surrogate.datasets.sources.pickle_bytes._CHUNK", 1000)
    values = np.arange(500)
    *_, numbers = load_pickle(io.BytesIO(python2_numbers(values) + b"e\x87."))
    assert numbers == values.tolist()


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "|b1", "<i4", ">u2", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_numeric_type_and_order_are_read(dtype: str, order: Any) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    read = load_pickle(io.BytesIO(pickle.dumps(array, protocol=2)))
    assert isinstance(read, PickledArray)
    np.testing.assert_array_equal(read.array, array)


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
    "thousands of marks": b"\x80\x02" + b"(" * 60_000,
    "thousands of lists": b"\x80\x02" + b"]" * 60_000,
    "thousands of memo entries": b"\x80\x04N" + b"\x94" * 60_000,
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
def test_a_hostile_pickle_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No other of these holds so many.
    monkeypatch.setattr("surrogate.datasets.sources.pickles._MAX_OBJECTS", 50_000)
    begun = time.process_time()
    with pytest.raises(UnsafePickleError) as caught:
        load_pickle(io.BytesIO(HOSTILE[what]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    # Refusing takes a second at most; what is hidden in these would take minutes or for ever.
    assert time.process_time() - begun < 20


def test_what_unpacks_to_much_more_than_a_data_file_is_refused() -> None:
    with pytest.raises(UnsafePickleError, match="more than 1000 bytes"):
        load_pickle_of(io.BytesIO(b"\x80\x02" + b"N" * (1 << 22)), 1000)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("content", [b"", b"a\xff"])
def test_bytes_are_read_as_every_protocol_writes_them(protocol: int, content: bytes) -> None:
    assert load_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol))) == content


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


def change_trial(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["Results"]["listOfSingleSimulationDicts"][1][name] = value

    return change


def change_parameter(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["Params"][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("Params"), "Params of type NoneType"),
        (lambda content: content.pop("Results"), "Results of type NoneType"),
        (lambda c: c["Results"].update(listOfSingleSimulationDicts=[]), "no trial"),
        (lambda c: c["Results"].update(listOfSingleSimulationDicts=[3]), "trial 0 has no"),
        (change_parameter("allSegmentsType", ["basal"] * 3), "4 rows, expected 3"),
        (change_parameter("allSegmentsType", []), "0 segments"),
        (change_parameter("allSegmentsLength", None), "not a list of numbers"),
        (change_parameter("allSegmentsLength", [1.0, 2.0, 3.0, float("nan")]), "NaN"),
        (change_trial("exInputSpikeTimes", [1]), "exInputSpikeTimes of type list"),
        (change_trial("exInputSpikeTimes", {4: [1]}), "segment '4', expected 0..3"),
        (change_trial("exInputSpikeTimes", {-1: [1]}), "segment '-1'"),
        (change_trial("exInputSpikeTimes", {"0": [1]}), "segment '0'"),
        (change_trial("exInputSpikeTimes", {0: [300]}), "expected 0 to below 300"),
        (change_trial("exInputSpikeTimes", {0: [-1]}), "expected 0 to below 300"),
        (change_trial("exInputSpikeTimes", {0: [float("nan")]}), "NaN"),
        (change_trial("exInputSpikeTimes", {0: [10**400]}), "byte|out of range|instruction"),
        (change_trial("exInputSpikeTimes", {0: ["1"]}), "not a list of numbers"),
        (change_trial("exInputSpikeTimes", {0: np.zeros((2, 2))}), "not a list of numbers"),
        (change_trial("somaVoltageLowRes", np.zeros(299, np.float16)), "expected 300"),
        (change_trial("somaVoltageLowRes", np.full(300, np.nan, np.float16)), "NaN"),
        (change_trial("somaVoltageLowRes", np.full(300, 1e6)), "finite"),
        (change_trial("somaVoltageHighRes", np.zeros(2399, np.float16)), "multiple of 300"),
        (change_trial("outputSpikeTimes", np.array([np.inf], np.float16)), "NaN or infinite"),
        (change_trial("outputSpikeTimes", "soon"), "not a list of numbers"),
    ],
)
def test_a_field_of_another_form_is_named(
    public_content: dict[str, Any],
    saved: Callable[[Any], Path],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    change(public_content)
    path = saved(public_content)
    with pytest.raises(DataError, match=message) as caught:
        trials_of(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


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


def test_the_instructions_of_python_2_are_all_known() -> None:
    """What Python 2 writes for the kinds of value in the files, instruction by instruction."""
    known = {"PROTO", "EMPTY_DICT", "BINPUT", "MARK", "SHORT_BINSTRING", "BININT", "BININT1"}
    known |= {"NEWFALSE", "NEWTRUE", "EMPTY_LIST", "BININT2", "APPENDS", "BINGET", "BINFLOAT"}
    known |= {"GLOBAL", "TUPLE3", "REDUCE", "NONE", "TUPLE", "BUILD", "TUPLE2", "LONG_BINPUT"}
    known |= {"SETITEMS", "TUPLE1", "BINSTRING", "LONG_BINGET", "SETITEM", "APPEND", "LONG1"}
    known |= {"EMPTY_TUPLE", "BINUNICODE"}
    codes = {ord(op.code) for op in pickletools.opcodes if op.name in known}
    assert codes <= set(_INSTRUCTIONS)
