"""Recorded spikes on input channels, without a Brian2 object for each channel."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import h5py
import numpy as np
from brian2 import Quantity, ms, second
from brian2.units.fundamentalunits import have_same_dimensions
from numpy.typing import ArrayLike, NDArray

from surrogate.errors import DataError, UsageError

__all__ = ["RecordedSpikes", "Recording", "sonata_spikes"]

_EPSILON = 1e-6  # of a bin: 0.003 / 0.001 may be a little less than 3


class Recording(NamedTuple):
    """Elements of ``inputs`` [spikes] by bin, where bins begin [bins + 1], whether they repeat."""

    elements: NDArray[np.int64]
    begins: NDArray[np.int64]
    repeats: bool

    def add(self, counts: NDArray[np.int32], step: int) -> None:
        """Add the spikes of the bin that this step closes to ``counts``, [N, inputs]."""
        bins = len(self.begins) - 1
        closed = (step - 1) % bins if self.repeats else step - 1
        if closed < bins:
            now = self.elements[self.begins[closed] : self.begins[closed + 1]]
            np.add.at(counts.reshape(-1), now, 1)


class RecordedSpikes:
    """Spikes that each reach a channel of a neuron at a time.

    They are delivered where the step closes their bin, in every mode of Brian2, and are spikes like
    those of the network, but counted with the background.

    Parameters
    ----------
    neuron, channel : int or array of int
        Which channel of which neuron, as in :meth:`SurrogateNeuron.channel`.
    time : Quantity, array
        When, in any order, from 0 on. Broadcast against ``neuron`` and ``channel``.
    group : str, optional
        The channel group in which ``channel`` counts; without it through all channels.
    period : Quantity, optional
        After which they come again: a whole number of bins, later than all of them.

    Raises
    ------
    UsageError
        If times are negative, not finite or no times, or the shapes do not fit; SurrogateNeuron
        refuses neurons and channels that do not exist, and a period that does not fit.
    """

    def __init__(
        self,
        neuron: ArrayLike,
        channel: ArrayLike,
        time: Quantity,
        *,
        group: str | None = None,
        period: Quantity | None = None,
    ) -> None:
        for name, given in ("time", time), ("period", period):
            if given is not None and not have_same_dimensions(given, second):
                raise UsageError(f"{name}={given!r}: expected a time, such as 20*ms")
        try:
            neuron, channel, seconds = np.broadcast_arrays(neuron, channel, np.asarray(time))
        except ValueError as error:
            raise UsageError(
                f"shapes {np.shape(neuron)} of neuron, {np.shape(channel)} of channel and "
                f"{np.shape(time)} of time do not fit: expected one of each for each spike"
            ) from error
        if not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise UsageError("a recorded time is negative or not finite: expected 0*ms or later")
        self.neuron, self.channel, self.group = neuron.ravel(), channel.ravel(), group
        self.seconds, self.period = seconds.ravel(), period

    def by_bin(self, index: NDArray[np.int64], bin_s: float) -> Recording:
        """The spikes in the order of their bins, at these elements of ``inputs``."""
        bins = np.floor(self.seconds / bin_s + _EPSILON).astype(np.int64)
        count = bins.max(initial=0) + 1
        if self.period is not None:
            exact = float(self.period) / bin_s
            if abs(exact - round(exact)) > _EPSILON or round(exact) < count:
                raise UsageError(
                    f"period={self.period}: expected a whole multiple of {bin_s * second}, "
                    f"{count * bin_s * second} or longer"
                )
            count = round(exact)
        order = np.argsort(bins, kind="stable")
        begins = np.searchsorted(bins[order], np.arange(count + 1))
        return Recording(index[order], begins, self.period is not None)


def sonata_spikes(
    path: str | os.PathLike[str], population: str | None = None
) -> tuple[NDArray[np.int64], Quantity]:
    """Node numbers and times of the spikes in a SONATA spike file, arrays [spikes].

    Parameters
    ----------
    path : path
    population : str, optional
        Needed if the file has several.

    Raises
    ------
    UsageError
        If there is no such population, or there are several and none is chosen.
    DataError
        If the file cannot be read or is no SONATA spike file.
    """
    try:
        with h5py.File(path) as file:
            found: Any = file["spikes"]
            names = [name for name, entry in found.items() if isinstance(entry, h5py.Group)]
            chosen = population or (names[0] if len(names) == 1 else None)
            if chosen not in names:
                raise UsageError(
                    f"{path}: population={population!r}: expected {' or '.join(names) or 'none'}"
                )
            times = found[chosen]["timestamps"]
            unit = times.attrs.get("units", "ms")
            if unit not in ("ms", b"ms"):
                raise DataError(f"{path}: timestamps in {unit!r}: expected 'ms'")
            return found[chosen]["node_ids"][:].astype(np.int64), times[:] * ms
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: no SONATA spike file: {error}") from error
