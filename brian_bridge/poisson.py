"""Poisson spikes on the channels of a group, as a function of seed, neuron and step.

The spikes of a bin are a Poisson process on a line on which each channel has a share of its mean
number of spikes. Their number comes from a table for a mean of 1, 2, 4, ... or 64, the smallest
that is enough, or from several draws with a mean of 64; each is then kept with a probability that
makes the mean what it should be, and falls on a channel. So no function but these tables depends on
a rate, the cost is that of the spikes, and all is integers but for one multiplication: whatever
the compiler and its flags, the spikes are the same. ``kernels/cpu/poisson.h`` is the same in C++.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
from numpy.typing import NDArray

from surrogate.kernels import cpu
from surrogate.model.philox import philox

__all__ = ["PoissonChannels"]

_LARGEST_MEAN, _WIDTH = 6, 160  # log2; numbers of spikes that are told apart
_MOST_SPIKES = 2.0**47  # 2^15 in a bin


@cache
def _poisson_tables() -> NDArray[np.int64]:
    """P(at most k spikes) in units of 2^-63, for k < 160 in columns, for means of 2^row."""
    rows: list[list[int]] = []
    with localcontext(prec=60):
        for power in range(_LARGEST_MEAN + 1):
            mean = Decimal(2**power)
            term = total = (-mean).exp()
            rows.append([])
            for spikes in range(1, _WIDTH + 1):
                rows[-1].append(min(int(total * 2**63), 2**63 - 1))
                term *= mean / spikes
                total += term
    return np.array(rows, np.int64)


@dataclass(frozen=True, eq=False)
class PoissonChannels:
    """How spikes are drawn on one group of channels.

    Attributes
    ----------
    seed : int
        64 bits.
    stream : int
        Of random numbers, above 0: the group's own. Stream 0 is that of spikes.
    first : int
        First channel.
    share : array of float [channels]
        Relative rates of the channels.
    bin_s : float
    """

    seed: int
    stream: int
    first: int
    share: NDArray[np.float64]
    bin_s: float

    @property
    def scale(self) -> float:
        """Spikes in a bin, at a mean rate of the channels of 1 Hz, in units of 2^-32."""
        return self.bin_s * len(self.share) * 2.0**32

    @property
    def upper(self) -> NDArray[np.int64]:
        """Where the channels' shares of the line from 0 to 2^32 end."""
        summed = np.cumsum(self.share)
        return np.floor(summed / summed[-1] * 2.0**32).astype(np.int64)

    def tables(self) -> NDArray[np.int64]:
        """What C++ looks up: numbers of spikes, the ends of shares, and where to look for them."""
        bits = (len(self.share) - 1).bit_length()
        places = np.arange(2**bits, dtype=np.int64) << (32 - bits)
        guide = np.searchsorted(self.upper, places, side="right")
        return np.concatenate([_poisson_tables().ravel(), self.upper, guide])

    def adder(self) -> Callable[[NDArray[np.int32], NDArray[np.float64], int], None]:
        """The function :meth:`add`, in C++ where that was built."""
        module = cpu.load()
        if module is None:
            return self.add
        tables, channels = self.tables(), (self.first, len(self.share), self.scale)

        def add(counts: NDArray[np.int32], rate: NDArray[np.float64], step: int) -> None:
            own = self.seed, self.stream, counts.shape[1]
            module.add_poisson(counts, rate, tables, step, *own, *channels)

        return add

    def add(self, counts: NDArray[np.integer], rate: NDArray[np.float64], step: int) -> None:
        """Add the spikes of a bin to ``counts``, [N, inputs], at rates of [N] Hz."""
        neurons = np.flatnonzero(rate * self.scale >= 1)
        wanted = np.minimum(rate[neurons] * self.scale, _MOST_SPIKES).astype(np.int64)
        power = (wanted[:, None] > 2 ** (32 + np.arange(_LARGEST_MEAN))).sum(1)
        slices = (wanted + 2 ** (32 + power) - 1) >> (32 + power)
        kept = wanted // slices >> power
        owner, number = _ragged(slices)
        drawn = (self._words(neurons[owner], number, step) >> np.uint64(1)).astype(np.int64)
        tables, candidates = _poisson_tables(), np.zeros(len(neurons), np.int64)
        for row in np.unique(power):
            of = power[owner] == row
            spikes = np.searchsorted(tables[row], drawn[of], side="right")
            np.add.at(candidates, owner[of], spikes)
        owner, number = _ragged(candidates)
        words = self._words(neurons[owner], slices[owner] + number, step)
        is_kept = (words & np.uint64(0xFFFFFFFF)).astype(np.int64) < kept[owner]
        places = (words[is_kept] >> np.uint64(32)).astype(np.int64)
        channel = self.first + np.searchsorted(self.upper, places, side="right")
        np.add.at(counts, (neurons[owner[is_kept]], channel), 1)

    def _words(
        self, neuron: NDArray[np.int64], number: NDArray[np.int64], step: int
    ) -> NDArray[np.uint64]:
        """The 64-bit words of these numbers, of each neuron in this step."""
        counter = np.zeros((4, len(neuron)), np.uint64)
        counter[0], counter[1], counter[2] = neuron, step & 0xFFFFFFFF, step >> 32
        counter[3] = (self.stream << 16) + number // 2
        c0, c1, c2, c3 = philox(tuple(counter), (self.seed & 0xFFFFFFFF, self.seed >> 32))
        half = np.uint64(32)
        return np.where(number % 2, c2 << half | c3, c0 << half | c1)


def _ragged(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and number within the row of each element of rows of these lengths."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
