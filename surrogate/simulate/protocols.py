"""Input protocols: which synapses spike when, drawn at random for any neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from surrogate.channels import Channels
from surrogate.errors import UsageError
from surrogate.kernels import SpikeEvents

__all__ = ["L5PCProtocol"]

# ms: how long a rate is held, and the standard deviation with which it is smoothed. To each a whole
# number from -JITTER to JITTER is added.
_HELD = (25, 30, 35, 40, 45, 55, 60, 65, 70, 75, 80, 85, 90, 100, 150, 200, 300, 450)
_SIGMA = (25, 30, 35, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500, 600)
_JITTER = 20
#: A synapse's own factor on its share of the tree's rate lies in 1 - SPREAD .. 1 + SPREAD.
_SPREAD = 0.5
#: Spikes per 100 ms in a tree: the most of excitation, and of inhibition beside the excitation.
_EXCITATION = 800.0
_INHIBITION = -600.0, 200.0
#: um, added to each segment's length.
_EXTRA_LENGTH = 10.0


@dataclass(frozen=True, eq=False)
class L5PCProtocol:
    """The input that Beniaguev, Segev and London (2021) drove their layer 5 pyramidal cell with.

    A trial has one interval length and one smoothing. In each interval and each tree of the neuron
    (all segments of one type) the number E of excitatory spikes per 100 ms is uniform in 0 to 800,
    that of inhibitory ones in max(0, E - 600) to E + 200. A synapse's share is (10 um + length of
    its segment) over the tree's sum, times a factor in 0.5 to 1.5 of its own in each interval.
    Rates are smoothed over time by a Gaussian window of 1 + 7 sigma bins; with L the smoothed rate
    per bin, a synapse spikes in a bin with probability L (1 - exp(-1 / L)).

    Parameters
    ----------
    channels : Channels
        Excitatory and inhibitory groups, each channel with its segment.
    segments : mapping of str to array
        The segment table: ``type`` and ``length_um``.
    n_steps : int
        Bins of a trial.
    dt_ms : float
        Length of a bin.
    scale : float
        Factor on all rates, for neurons with fewer or more synapses than that cell.

    Raises
    ------
    UsageError
        If a group has neither sign or no segments, the table lacks a column, or the neuron has so
        few synapses that one of them could be due more than one spike per bin.
    """

    channels: Channels
    segments: Mapping[str, ArrayLike]
    n_steps: int
    dt_ms: float = 1.0
    scale: float = 1.0
    _population: NDArray[np.int64] = field(init=False, repr=False)
    _share: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for column in ("type", "length_um"):
            if column not in self.segments:
                raise UsageError(
                    f"the segment table has no column {column!r}: expected the type and length of "
                    "each segment, from which the protocol takes the rates of its synapses"
                )
        for group in self.channels.groups:
            if not (group.sign and group.segments):
                raise UsageError(
                    f"channel group {group.name!r} has sign {group.sign} and "
                    f"{'' if group.segments else 'no '}segments: expected excitatory or inhibitory "
                    "synapses with a place in the segment table"
                )
        of_channel = np.concatenate([group.segments for group in self.channels.groups])
        signs = np.concatenate([np.full(group.size, group.sign) for group in self.channels.groups])
        types, tree = np.unique(np.asarray(self.segments["type"]), return_inverse=True)
        # Excitation of each tree, then inhibition of each.
        population = tree[of_channel] + np.where(signs > 0, 0, len(types))
        length = _EXTRA_LENGTH + np.asarray(self.segments["length_um"], float)[of_channel]
        total = np.bincount(population, length, minlength=2 * len(types))
        object.__setattr__(self, "_population", population)
        object.__setattr__(self, "_share", length / total[population])
        most = np.where(signs > 0, _EXCITATION, _EXCITATION + _INHIBITION[1])
        highest = (1 + _SPREAD) * (self._share * most).max() * self.scale * self.dt_ms / 100
        if highest >= 1:
            raise UsageError(
                f"a synapse would be due up to {highest:.3g} spikes per bin of {self.dt_ms:g} ms: "
                "expected less than 1; lower protocol_scale"
            )

    @property
    def description(self) -> dict[str, Any]:
        """What a model card says of it."""
        return {
            "name": "l5pc",
            "n_steps": self.n_steps,
            "scale": self.scale,
        }

    def draw(self, seed: int, trials: Sequence[int]) -> SpikeEvents:
        """The input of ``trials``: each depends on ``seed`` and its own number alone."""
        drawn = [self._draw_trial(np.random.default_rng([seed, 2, trial])) for trial in trials]
        channel, rows = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        row_ptr = np.zeros(rows.size + 1, np.int32)
        np.cumsum(rows, out=row_ptr[1:])
        return SpikeEvents(
            torch.from_numpy(channel), torch.from_numpy(row_ptr), len(trials), self.n_steps
        )

    def _draw_trial(self, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Channels of one trial in order of bins, and how many each bin has."""
        held, sigma = (
            max(1, round((rng.choice(choices) + rng.integers(-_JITTER, _JITTER + 1)) / self.dt_ms))
            for choices in (_HELD, _SIGMA)
        )
        rate = self._draw_rates(rng, -(-self.n_steps // held))
        highest = rate.max(axis=1)
        # A bin with a Poisson number of candidates of mean -log(1 - p) has any with probability p.
        number = rng.poisson(-np.log1p(-highest) * self.n_steps)
        at = rng.integers(0, self.n_steps, number.sum())
        at *= self.channels.size
        at += np.repeat(np.arange(self.channels.size), number)
        at.sort()  # np.unique would hash, a hundred times slower
        bins, channel = np.divmod(at[np.diff(at, prepend=-1) > 0], self.channels.size)
        # The smoothed rate is the mean of the held rate at a time that the window draws.
        window = np.exp(-0.5 * ((np.arange(1 + 7 * sigma) - 3.5 * sigma) / sigma) ** 2)
        window /= window.sum()
        centre = 7 * sigma // 2
        # How often each place in the window comes, then in which order.
        other = (
            bins
            + centre
            - rng.permutation(np.repeat(np.arange(window.size), rng.multinomial(bins.size, window)))
        )
        inside = (other >= 0) & (other < self.n_steps)
        held_rate = rate[channel, np.where(inside, other, 0) // held]
        kept = inside & (rng.random(bins.size) * highest[channel] < held_rate)
        bins, channel = bins[kept], channel[kept]
        # The factor 1 - exp(-1 / L) is 1 for nearly all: L is computed only where it may matter.
        draw = rng.random(bins.size)
        doubtful = np.flatnonzero(draw < np.exp(-1 / highest[channel]))
        edges = np.minimum(np.arange(rate.shape[1] + 1) * held, self.n_steps)
        reach = np.clip(bins[doubtful, None] + centre + 1 - edges, 0, window.size)
        weights = -np.diff(np.concatenate([[0.0], window.cumsum()])[reach], axis=1)
        smoothed = (rate[channel[doubtful]] * weights).sum(axis=1)
        stays = np.ones(bins.size, bool)
        stays[doubtful] = draw[doubtful] >= np.exp(-1 / smoothed)
        bins, channel = bins[stays], channel[stays]
        return channel.astype(np.int16), np.bincount(bins, minlength=self.n_steps)

    def _draw_rates(self, rng: np.random.Generator, intervals: int) -> NDArray[np.float64]:
        """Spikes per bin that each channel is due in each interval [channels, intervals]."""
        trees = self._population.max() // 2 + 1
        excitation = rng.uniform(0, _EXCITATION, (trees, intervals))
        low, high = (excitation + beside for beside in _INHIBITION)
        inhibition = rng.uniform(np.maximum(low, 0), high)
        count = np.concatenate([excitation, inhibition]) * (self.scale * self.dt_ms / 100)
        spread = rng.uniform(1 - _SPREAD, 1 + _SPREAD, (self.channels.size, intervals))
        return self._share[:, None] * count[self._population] * spread
