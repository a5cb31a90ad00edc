"""Public pickles: read in full, never run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surrogate.datasets.sources.detect import open_source
from surrogate.datasets.sources.l5pc_hdf5 import L5pcFile
from surrogate.datasets.sources.l5pc_pickle import PickleFile
from surrogate.datasets.sources.pickles import _INSTRUCTIONS, PickledArray, _Machine
from surrogate.datasets.sources.pickles import load_pickle as load_pickle_of
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError


def load_pickle(stream: io.BytesIO) -> Any:
    return load_pickle_of(stream, 1 << 20)


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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_trial_without_spikes_is_read_as_every_protocol_writes_it(
    public_content: dict[str, Any], tmp_path: Path, protocol: int
) -> None:
    for trial in public_content["Results"]["listOfSingleSimulationDicts"]:
        trial["outputSpikeTimes"] = np.zeros(0, np.float16)
        trial["inhInputSpikeTimes"] = {0: np.zeros(0), 1: []}
        trial["somaVoltageHighRes"] = np.full(2400, -70, np.float16)
        trial["somaVoltageLowRes"] = trial["somaVoltageHighRes"][::8]
    (tmp_path / "p").write_bytes(pickle.dumps(public_content, protocol=protocol))
    for trial in trials_of(tmp_path / "p"):
        assert trial.spike_time_ms.size == 0
        assert trial.exact_times


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
    assert machine._run_numbers == 1000


def test_a_run_of_numbers_across_the_end_of_the_buffer_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surrogate.datasets.sources.pickle_bytes._CHUNK", 1000)
    values = np.arange(500)
    *_, numbers = load_pickle(io.BytesIO(python2_numbers(values) + b"e\x87."))
    assert numbers == values.tolist()


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "|b1", "<i4", ">u2", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_numeric_type_and_order_are_read(
    dtype: str, order: Any, protocol: int
) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    read = load_pickle(io.BytesIO(pickle.dumps(array, protocol=protocol)))
    assert isinstance(read, PickledArray)
    np.testing.assert_array_equal(read.array, array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("content", [b"", b"a\xff"])
def test_bytes_are_read_as_every_protocol_writes_them(protocol: int, content: bytes) -> None:
    assert load_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol))) == content


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
        (lambda c: c["Results"].update(listOfSingleSimulationDicts=[]), "0 trials"),
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


def test_the_instructions_of_python_2_are_all_known() -> None:
    """What Python 2 writes for the kinds of value in the files, instruction by instruction."""
    known = {"PROTO", "EMPTY_DICT", "BINPUT", "MARK", "SHORT_BINSTRING", "BININT", "BININT1"}
    known |= {"NEWFALSE", "NEWTRUE", "EMPTY_LIST", "BININT2", "APPENDS", "BINGET", "BINFLOAT"}
    known |= {"GLOBAL", "TUPLE3", "REDUCE", "NONE", "TUPLE", "BUILD", "TUPLE2", "LONG_BINPUT"}
    known |= {"SETITEMS", "TUPLE1", "BINSTRING", "LONG_BINGET", "SETITEM", "APPEND", "LONG1"}
    known |= {"EMPTY_TUPLE", "BINUNICODE"}
    codes = {ord(op.code) for op in pickletools.opcodes if op.name in known}
    assert codes <= set(_INSTRUCTIONS)
