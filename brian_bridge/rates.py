"""Compares the input rates of a run with those of the training trials."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from surrogate.model.model_file import ModelCard

__all__ = ["KINDS", "MIN_BINS", "input_rates", "range_warnings"]

KINDS = ("excitatory", "inhibitory")
#: With fewer bins than this a rate is not reported.
MIN_BINS = 100


def input_rates(card: ModelCard, arrivals: NDArray[np.int64]) -> dict[str, float]:
    """Mean rate per synapse, Hz.

    Parameters
    ----------
    card : ModelCard
    arrivals : array [3]
        Excitatory and inhibitory arrivals, and the number of bins of one neuron they fell into.

    Returns
    -------
    dict of str to float
        ``excitatory`` and ``inhibitory``; NaN before any bin, or without such synapses.
    """
    synapses = (card.n_excitatory, card.input_size - card.n_excitatory)
    seconds = arrivals[2] * card.dt_ms * 1e-3
    return {
        kind: float(count) / (seconds * size) if seconds * size else float("nan")
        for kind, count, size in zip(KINDS, arrivals, synapses, strict=False)
    }


def range_warnings(card: ModelCard, arrivals: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """For each kind of synapse whose rate is outside the card's range: the kind and a warning."""
    if arrivals[2] < MIN_BINS:
        return
    for kind, rate in input_rates(card, arrivals).items():
        low, high = card.input_rate_hz.get(kind, (0.0, np.inf))
        if not low <= rate <= high and not np.isnan(rate):
            yield (
                kind,
                f"{kind} synapses received {rate:.3g} Hz on average, the model was trained on "
                f"{low:.3g} to {high:.3g} Hz: what it computes there is untested",
            )
