"""Compares the input rates of a run with those of the training trials."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from surrogate.model.card import ModelCard

__all__ = ["MIN_BINS", "input_rates", "range_warnings"]

#: With fewer bins than this a rate is not reported.
MIN_BINS = 100


def input_rates(card: ModelCard, arrivals: NDArray[np.int64]) -> dict[str, float]:
    """Mean rate per synapse, Hz.

    Parameters
    ----------
    card : ModelCard
    arrivals : array [groups + 1]
        Arrivals on each group of channels, and the number of bins of one neuron they fell into.

    Returns
    -------
    dict of str to float
        By channel group; NaN before any bin.
    """
    seconds = arrivals[-1] * card.dt_ms * 1e-3
    return {
        group.name: float(count) / (seconds * group.size) if seconds else float("nan")
        for group, count in zip(card.channels.groups, arrivals[:-1], strict=True)
    }


def range_warnings(card: ModelCard, arrivals: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """For each channel group whose rate is outside the card's range: its name and a warning."""
    if arrivals[-1] < MIN_BINS:
        return
    for group, rate in input_rates(card, arrivals).items():
        low, high = card.input_rate_hz.get(group, (0.0, np.inf))
        if not low <= rate <= high and not np.isnan(rate):
            yield (
                group,
                f"{group} synapses received {rate:.3g} Hz on average, the model was trained on "
                f"{low:.3g} to {high:.3g} Hz: what it computes there is untested",
            )
