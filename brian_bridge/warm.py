"""Hidden states of surrogates that have been active for a while."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from brian2 import Hz, Quantity, ms
from numpy.typing import NDArray

from surrogate.brian_bridge.models import ModelSource, Population
from surrogate.errors import UsageError
from surrogate.kernels.stepper import Stepper

__all__ = ["warm_state"]


def warm_state(
    model: ModelSource,
    neurons: int,
    duration: Quantity = 500 * ms,
    *,
    rates: Mapping[str, Quantity] | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Hidden states of neurons that have been driven by random input for a while.

    The zero state affects a model's output for some hundred milliseconds. These states start a
    network as if it had been active before.

    Parameters
    ----------
    model : path or Model
    neurons : int
        Number of states N.
    duration : Quantity
        For how long each was driven.
    rates : mapping of str to Quantity, optional
        Poisson rate of each synapse by channel group, such as ``{"excitatory": 2*Hz}``; where none
        is given, the middle of the card's training range.
    seed : int

    Returns
    -------
    array, float32 [N, state size]
        For :attr:`SurrogateNeuron.hidden_state`.

    Raises
    ------
    UsageError
        If a rate is neither given nor in the card, or there is no such group.
    """
    population = Population(model, neurons)
    card = population.card
    known = {group: np.mean(range_hz) * Hz for group, range_hz in card.input_rate_hz.items()}
    known |= rates or {}
    for group in card.channels.names:
        if group not in known:
            raise UsageError(
                f"the model card has no rate of {group!r}: give it, such as "
                f"rates={{{group!r}: 2*Hz}}"
            )
    rate = card.channels.per_channel({group: float(hz) for group, hz in known.items()})
    probability = 1 - np.exp(-rate * card.dt_ms * 1e-3)
    stepper = Stepper(population.spec, population.weights(), neurons)
    rng = np.random.default_rng(seed)
    lost = np.zeros(neurons, np.int64)
    for _ in range(round(duration / ms / card.dt_ms)):
        counts = rng.random((neurons, card.channels.size)) < probability
        stepper.step_counts(counts.astype(np.int32), lost)
    return stepper.state
