"""Initial weights of a training run."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.channels import Channels
from surrogate.datasets import Dataset
from surrogate.model.stack import RecurrentStack
from surrogate.training.recipe import SHORTEST_MEMORY_MS, Recipe

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

    Xavier-uniform weights and zero biases; on top of that what ``sign_aware_init``,
    ``input_gain``, ``memory_ms``, ``branch_weight``, ``branch_tau_ms`` and ``base_rate_bias`` ask
    for. Connections of channels whose sign is not known get random weights.
    """
    generator = torch.Generator().manual_seed(seed)
    stack.reset_parameters(generator)
    branches = stack.spec.branches
    if branches is not None:
        weight = stack.get_parameter("branches.weight")
        weight.fill_(branches.parameter_of(recipe.branch_weight))
        unsigned = branches.sign == 0
        draws = 2 * torch.rand(int(unsigned.sum()), generator=generator) - 1
        weight[unsigned] = recipe.branch_weight * draws
        log_tau = math.log(recipe.branch_tau_ms / dataset.dt_ms)
        stack.get_parameter("branches.log_tau").fill_(log_tau)
    else:
        weight = stack.get_parameter("layers.0.weight_ih_l0")
        if recipe.sign_aware_init:
            _oppose_inhibition(weight, dataset.channels, generator)
        weight.mul_(recipe.input_gain)
    if recipe.memory_ms:
        _make_leaky(stack, recipe.memory_ms, dataset.dt_ms, generator)
    if recipe.base_rate_bias:
        some = trials[:: max(1, len(trials) // _TRIALS_FOR_RATE)]
        spikes = sum(len(dataset.spike_times(int(trial))) for trial in some)
        # Half a spike instead of none: log odds of minus infinity could not be trained.
        rate = max(spikes, 0.5) / (len(some) * dataset.n_steps)
        stack.get_parameter("head.bias")[0] = math.log(rate / (1 - rate))


def _oppose_inhibition(weight: Tensor, channels: Channels, generator: torch.Generator) -> None:
    """One size per gate unit and group of synapses, of the group's sign or of its opposite.

    Sizes are uniform up to Xavier's bound; which sign is positive is drawn for each gate unit. A
    group whose sign is not known keeps its weights.
    """
    rows = len(weight)
    bound = math.sqrt(6 / (rows + channels.size))
    sizes = bound * torch.rand(rows, len(channels.groups), generator=generator)
    orientation = torch.randint(0, 2, (rows, 1), generator=generator) * 2 - 1
    for index, (group, of) in enumerate(
        zip(channels.groups, channels.slices.values(), strict=True)
    ):
        if group.sign:
            weight[:, of] = group.sign * orientation * sizes[:, index : index + 1]


def _make_leaky(
    stack: RecurrentStack, memory_ms: float, dt_ms: float, generator: torch.Generator
) -> None:
    """Start the first layer with time constants log-uniform from 2 ms to ``memory_ms``.

    None is shorter than two bins. A unit with a time constant of tau bins keeps 1 - 1/tau of its
    memory each step. Gated units get there through their biases, log(tau - 1) on the gate that
    keeps and its negative on the LSTM's input gate (Tallec and Ollivier 2018, "Can recurrent neural
    networks warp time?", section 3); a vanilla RNN through exp(-1/tau) on the diagonal of otherwise
    small recurrent weights. Layers with time constants of their own get them evenly spaced on a
    logarithmic scale, from one bin to ``memory_ms``.
    """
    timed = [p for name, p in stack.layers.named_parameters() if name.endswith("log_tau")]
    for log_tau in timed:
        log_tau.copy_(torch.linspace(0, math.log(max(memory_ms / dt_ms, 1)), len(log_tau)))
    if timed:
        return
    size = stack.spec.recurrent_sizes[0]
    shortest = max(SHORTEST_MEMORY_MS / dt_ms, 2.0)
    ratio = math.log(max(memory_ms / dt_ms, shortest) / shortest)
    tau = shortest * torch.exp(ratio * torch.rand(size, generator=generator))
    gates = stack.get_parameter("layers.0.bias_ih_l0").unflatten(0, (-1, size))
    architecture = stack.spec.architecture
    if architecture.keep_gate is not None:
        gates[architecture.keep_gate] = torch.log(tau - 1)
    if architecture.input_gate is not None:
        gates[architecture.input_gate] = -torch.log(tau - 1)
    if architecture.keep_gate is None and architecture.gates == 1:
        recurrent = stack.get_parameter("layers.0.weight_hh_l0")
        recurrent.mul_(0.1).add_(torch.diag(torch.exp(-1 / tau)))
