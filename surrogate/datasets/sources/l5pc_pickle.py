"""Reading the public pickle files of Beniaguev, Segev and London (2021)."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from surrogate.channels import MAX_CHANNELS
from surrogate.datasets.layout import MAX_STEPS
from surrogate.datasets.sources.l5pc import l5pc_header
from surrogate.datasets.sources.pickle_bytes import UnsafePickleError, most_unpacked
from surrogate.datasets.sources.pickle_numpy import PickledArray
from surrogate.datasets.sources.pickles import load_pickle
from surrogate.datasets.spike_times import recover_spike_times
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError
from surrogate.files import check_is_file, explain_os_error

__all__ = ["DAMAGED", "PickleFile", "looks_like_pickle", "open_compressed"]

_MAGIC = ((b"\xfd7zXZ\x00", lzma.open), (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open))
#: A public file has 128 trials, of 100,000 input spikes each.
_MOST_TRIALS, _MOST_EVENTS = 1 << 14, 1 << 22
_MOST_LETTERS = 64
#: What reading a damaged compressed file may raise.
DAMAGED = (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile)


def open_compressed(path: Path) -> BinaryIO:
    """``path`` for reading, decompressed if its first bytes are those of xz, gzip or bzip2."""
    check_is_file(path)
    with path.open("rb") as handle:
        start = handle.read(6)
    for magic, opener in _MAGIC:
        if start.startswith(magic):
            return cast(BinaryIO, opener(path, "rb"))
    return path.open("rb")


def looks_like_pickle(start: bytes) -> bool:
    """Whether a file with these first bytes may be a pickle of any protocol, also a text one."""
    return start[:1] in (b"\x80", b"(", b"c", b"]", b"}")


class PickleFile:
    """The trials of one public file, all read at once and given out one after another.

    Reading needs about as much memory as the decompressed file takes on disk.

    Raises
    ------
    DataError
        If the file is damaged, names what no data file needs, or a field has not the form that
        the public files give it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Each number of the file takes a byte; more is the same one fetched again.
        self._numbers_left = most_unpacked(path.stat().st_size)
        content = self._load()
        parameters = self._field(content, "Params", dict, "the file")
        results = self._field(content, "Results", dict, "the file")
        self._trials = self._field(results, "listOfSingleSimulationDicts", list, "Results")
        if not 0 < len(self._trials) <= _MOST_TRIALS:
            self._fail(f"holds {len(self._trials)} trials, expected 1 to {_MOST_TRIALS}")
        segments = self._segments(parameters)
        seed = parameters.get("randomSeed", -1)
        self._seed = seed if isinstance(seed, int) and abs(seed) < 2**62 else -1
        n_steps = self._numbers(self._trials[0], "somaVoltageLowRes", 0).size
        if not 0 < n_steps <= MAX_STEPS:
            self._fail(f"somaVoltageLowRes has {n_steps} samples")
        self.header = l5pc_header(path, n_steps, segments)
        self.description = {
            "kind": "pickle",
            "excitatory_synapses": self._label(parameters, "excitatorySynapseType"),
            "inhibitory_synapses": self._label(parameters, "inhibitorySynapseType"),
        }

    def close(self) -> None:
        self._trials.clear()

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        for index in range(len(self._trials)):
            yield self._trial(index)
            self._trials[index] = None

    def _load(self) -> dict[str, Any]:
        try:
            with open_compressed(self.path) as stream:
                content = load_pickle(stream, self.path.stat().st_size)
        except UnsafePickleError as error:
            raise DataError(
                f"{self.path}: refused: the pickle {error}; nothing was run. "
                "Get the file again from its publisher"
            ) from error
        except DAMAGED as error:
            self._fail(f"damaged compression ({error})", error)
        except OSError as error:
            if error.errno is None:
                self._fail(f"damaged compression ({error})", error)
            raise explain_os_error(error, self.path) from error
        if not isinstance(content, dict):
            self._fail(f"the pickle holds a {type(content).__name__}, expected a dictionary")
        return content

    def _fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise DataError(f"{self.path}: {what}; get the file again") from cause

    def _field(self, holder: Any, name: str, kind: type, where: str) -> Any:
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, kind):
            self._fail(
                f"{where} has {name} of type {type(value).__name__}, expected {kind.__name__}"
            )
        return value

    def _label(self, parameters: dict[str, Any], name: str) -> str:
        value = parameters.get(name, "")
        if not _is_label(value):
            self._fail(f"Params.{name} is no name of at most {_MOST_LETTERS} characters")
        return value

    def _array(self, value: Any, what: str) -> np.ndarray:
        """A list or array of real, finite numbers as a one-dimensional array."""
        if isinstance(value, PickledArray):
            array = value.array
        elif isinstance(value, list | tuple) and {type(item) for item in value} <= {int, float}:
            try:
                array = np.array(value, np.float64)
            except OverflowError as error:
                self._fail(f"{what} holds a number out of range", error)
        else:
            array = None
        if array is None or array.ndim != 1 or array.dtype.kind not in "iuf":
            self._fail(f"{what} is not a list of numbers")
        if not np.isfinite(array).all():
            self._fail(f"{what} holds NaN or infinite values")
        self._numbers_left -= array.size
        if self._numbers_left < 0:
            self._fail(f"{what} brings more numbers than fit the file: the same ones many times")
        return array

    def _numbers(self, trial: Any, name: str, index: int) -> np.ndarray:
        if not isinstance(trial, dict) or name not in trial:
            self._fail(f"trial {index} has no {name}")
        return self._array(trial[name], f"{name} of trial {index}")

    def _segments(self, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        types = self._field(parameters, "allSegmentsType", list, "Params")
        if not types or len(types) > MAX_CHANNELS // 2 or not all(map(_is_label, types)):
            self._fail(f"Params.allSegmentsType lists {len(types)} segments, or not their types")
        table: dict[str, np.ndarray] = {"type": np.array(types)}
        for column, name, dtype in (
            ("length_um", "allSegmentsLength", np.float64),
            ("distance_um", "allSegments_DistFromSoma", np.float64),
            ("section", "allSegments_SectionInd", np.int64),
        ):
            table[column] = self._array(parameters.get(name), f"Params.{name}").astype(dtype)
            if table[column].size != len(types):
                self._fail(f"Params.{name} has {table[column].size} rows, expected {len(types)}")
        return table

    def _trial(self, index: int) -> Trial:
        trial, steps = self._trials[index], self.header.n_steps
        with np.errstate(over="ignore"):  # checked below
            voltage = self._numbers(trial, "somaVoltageLowRes", index).astype(np.float16)
        if voltage.size != steps or not np.isfinite(voltage).all():
            self._fail(
                f"somaVoltageLowRes of trial {index} has {voltage.size} samples up to "
                f"{voltage.max()} mV, expected {steps} finite ones"
            )
        time, channel = self._events(trial, index)
        with np.errstate(over="ignore"):  # Trial.problems finds infinite times
            listed = self._numbers(trial, "outputSpikeTimes", index).astype(np.float16)
        exact = self._exact_times(trial, index, listed)
        whole = Trial.from_spikes(
            self.header,
            channel,
            time,
            spike_time_ms=listed if exact is None else exact,
            voltage_mV={"soma": voltage},
            source=(self._seed, index),
        )
        return dataclasses.replace(
            whole,
            silenced=np.unique(channel[time == 0]).astype(np.uint16),
            rounded_spike_time_ms=listed.astype(np.float32),
            exact_times=exact is not None,
        )

    def _events(self, trial: dict[str, Any], index: int) -> tuple[np.ndarray, np.ndarray]:
        """Channels and times in ms of all input spikes; a segment without spikes is absent."""
        times, channels, n_events = [np.zeros(0)], [np.zeros(0, np.int64)], 0
        n_segments = self.header.n_inputs // 2
        for offset, name in ((0, "exInputSpikeTimes"), (n_segments, "inhInputSpikeTimes")):
            for segment, spikes in self._field(trial, name, dict, f"trial {index}").items():
                if type(segment) is not int or not 0 <= segment < n_segments:
                    self._fail(
                        f"{name} of trial {index} names segment {str(segment)[:40]!r}, "
                        f"expected 0..{n_segments - 1}"
                    )
                time = self._array(spikes, f"{name} of segment {segment} in trial {index}")
                if time.size and not (time.min() >= 0 and time.max() < self.header.n_steps):
                    self._fail(
                        f"{name} of trial {index} spans {time.min()}..{time.max()} ms, "
                        f"expected 0 to below {self.header.n_steps}"
                    )
                n_events += time.size
                if n_events > _MOST_EVENTS:
                    self._fail(f"trial {index} has more than {_MOST_EVENTS} input spikes")
                times.append(time)
                channels.append(np.full(time.size, offset + segment))
        return np.concatenate(times), np.concatenate(channels)

    def _exact_times(
        self, trial: dict[str, Any], index: int, listed: np.ndarray
    ) -> np.ndarray | None:
        if "somaVoltageHighRes" not in trial:
            return None
        voltage = self._numbers(trial, "somaVoltageHighRes", index)
        samples, rest = divmod(voltage.size, self.header.n_steps)
        if rest or not samples:
            self._fail(
                f"somaVoltageHighRes of trial {index} has {voltage.size} samples, "
                f"expected a multiple of {self.header.n_steps}"
            )
        return recover_spike_times(voltage, samples, listed)


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_LETTERS
