"""Small random models, recorded input, and what a model says offline: for the tests of Brian2."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from brian2 import NeuronGroup, SpikeGeneratorGroup, Synapses, ms
from numpy.typing import NDArray

from surrogate.channels import Channels
from surrogate.kernels import SpikeEvents, run_stack
from surrogate.kernels.branches import Branches
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model
from surrogate.model.spike_rule import SpikeRule
from surrogate.model.stack import RecurrentStack

# pytest's handler would format every line of Brian2's log, however fine: ten times the run time.
logging.getLogger("brian2").propagate = False

INPUTS, EXCITATORY = 20, 10


def random_model(
    arch: str = "lstm",
    sizes: tuple[int, ...] = (5, 3, 2),
    *,
    seed: int = 0,
    head: str = "recurrent",
    inputs: int = INPUTS,
    logit: float | None = None,
    refractory_bins: int = 2,
    branches: Branches | None = None,
    **card: Any,
) -> Model:
    """A model with random weights whose outputs vary with its input.

    Unless given, the level of its logit is one that three bins in ten exceed.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {"voltage_scale": 10.0, "voltage_offset": -67.7}
    stack = RecurrentStack(arch, sizes, inputs, head, branches=branches, **scales)
    for parameter in stack.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8, generator=generator)
    groups = {"excitatory": min(EXCITATORY, inputs)}
    if inputs > EXCITATORY:
        groups["inhibitory"] = inputs - EXCITATORY
    fields = {"channels": Channels.of(**groups), "dt_ms": 1.0, "resting_voltage_mv": -76.0} | card
    model = Model(stack, ModelCard(stack.spec, **fields))
    if logit is None:
        typical = np.random.default_rng(seed).random((1, 200, inputs)) < 0.3
        logit = float(np.quantile(offline(model, typical)[0], 0.7))
    model.card.spike_rule = SpikeRule("level", logit, refractory_bins, "hand")
    return model


def random_arrivals(
    rng: np.random.Generator, elements: int, duration_ms: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Elements of ``inputs`` and times in units of 0.1 ms, a pair at most once, sorted by time."""
    pairs = np.stack([rng.integers(0, duration_ms * 10, count), rng.integers(0, elements, count)])
    ticks, index = np.unique(pairs, axis=1)
    return index, ticks


def counts_of(
    index: NDArray[np.int64], ticks: NDArray[np.int64], neurons: int, steps: int, inputs: int
) -> NDArray[np.int64]:
    """Arrivals [neurons, steps, inputs] in each bin: what ``inputs`` should have counted."""
    counts = np.zeros((neurons, steps, inputs), np.int64)
    kept = ticks < steps * 10
    np.add.at(counts, (index[kept] // inputs, ticks[kept] // 10, index[kept] % inputs), 1)
    return counts


def offline(
    model: Model, counts: NDArray[np.int64], dtype: torch.dtype = torch.float64
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Logits and voltage in mV, [neurons, steps], by the specification in ``dtype``."""
    weights = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    events = SpikeEvents.from_dense(torch.from_numpy(counts > 0))
    outputs, _ = run_stack(model.stack.spec, weights, events, provider="reference")
    spec = model.stack.spec
    voltage = outputs[..., 1].double() * spec.voltage_scale + spec.voltage_offset
    return outputs[..., 0].numpy(), voltage.numpy()


def feed(
    inputs: NeuronGroup, index: NDArray[np.int64], ticks: NDArray[np.int64]
) -> tuple[SpikeGeneratorGroup, Synapses]:
    """A generator of recorded spikes, and synapses that bring each to its element of ``inputs``."""
    source = SpikeGeneratorGroup(len(inputs), index, ticks * 0.1 * ms)
    synapses = Synapses(source, inputs, on_pre="x_post += 1")
    synapses.connect(i=np.arange(len(inputs)), j=np.arange(len(inputs)))
    return source, synapses
