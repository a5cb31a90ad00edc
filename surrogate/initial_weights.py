"""Initial weights of a training run."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from surrogate.datasets import Dataset
from surrogate.recipe import Recipe
from surrogate.stack import RecurrentStack

__all__ = ["initialise"]

#: Trials read to estimate the spike rate: enough for three digits, quick on the largest data set.
_TRIALS_FOR_RATE = 1000


@torch.no_grad()
def initialise(
    stack: RecurrentStack,
    recipe: Recipe,
    dataset: Dataset,
    trials: NDArray[np.int64],
    seed: int,
) -> None:
    """Set ``stack``'s weights from ``seed`` as the recipe says.

    Xavier-uniform weights and zero biases; then, where the recipe asks for it, the input weights
    of each gate unit take one sign on excitatory and the other on inhibitory channels (which of
    the two is drawn for each unit), and the linear head's spike bias becomes the log odds of a
    spike in a bin of ``trials``.
    """
    generator = torch.Generator().manual_seed(seed)
    stack.reset_parameters(generator)
    if recipe.sign_aware_init:
        weight = stack.layers[0].weight_ih_l0
        assert isinstance(weight, torch.Tensor)
        side = torch.where(torch.arange(weight.shape[1]) < dataset.n_excitatory, 1.0, -1.0)
        orientation = torch.randint(0, 2, (len(weight), 1), generator=generator) * 2 - 1
        weight.copy_(weight.abs() * side * orientation)
    if recipe.base_rate_bias:
        assert stack.head is not None
        some = trials[:: max(1, len(trials) // _TRIALS_FOR_RATE)]
        spikes = sum(len(dataset.spike_times(int(trial))) for trial in some)
        bins = len(some) * dataset.n_steps
        # Half a spike stands in for none: a log odds of minus infinity could not be trained.
        rate = max(spikes, 0.5) / bins
        stack.head.bias[0] = math.log(rate / (1 - rate))
