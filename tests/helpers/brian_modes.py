"""One network in one of Brian2's modes: ``python brian_modes.py MODE FOLDER``.

brian_bridge/test_modes.py starts it.

Surrogates with all kinds of spike rules, with recorded input and background; some drive and hear a
group of leaky integrate-and-fire neurons. Spikes and probabilities go to FOLDER/MODE.npz.
"""

from __future__ import annotations

import sys

import numpy as np
from brian2 import (
    Hz,
    Network,
    NeuronGroup,
    SpikeGeneratorGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    TimedArray,
    device,
    ms,
    prefs,
    set_device,
)

from helpers.brian import INPUTS, random_arrivals, random_model
from helpers.stacks import irregular_branches
from surrogate import SurrogateNeuron
from surrogate.brian_bridge import Background, RecordedSpikes, RisingEdge, Stochastic
from surrogate.model.model_file import Model
from surrogate.model.spike_rule import SpikeRule

MODES = ("numpy", "cython", "standalone", "two-runs", "openmp")
NEURONS, DURATION_MS = 3, 200


def ruled_model(kind: str) -> Model:
    """A model whose card has a rule of this kind."""
    model = random_model("gru", (6, 2), seed=4)
    level = model.spike_rule.logit
    low = level - 0.05 if kind == "hysteresis" else None
    model.card.spike_rule = SpikeRule(kind, level, 2, "hand", low)
    return model


def main(mode: str, folder: str) -> None:
    standalone = mode not in ("numpy", "cython")
    if standalone:
        set_device("cpp_standalone", directory=f"{folder}/a {mode}", build_on_run=False)
        prefs.devices.cpp_standalone.openmp_threads = 2 if mode == "openmp" else 0
        prefs.devices.cpp_standalone.extra_make_args_unix = ["-j2"]
    else:
        prefs.codegen.target = mode
    groups = [
        SurrogateNeuron(
            NEURONS,
            random_model("lstm", (7, 5, 2), seed=1),
            background=Background(excitatory=np.arange(10) * 8 * Hz, inhibitory=20 * Hz, seed=5),
            name="level",
        ),
        SurrogateNeuron(
            NEURONS,
            random_model("gru", (5, 2), seed=2),
            threshold=Stochastic(11),
            background=Background(
                inhibitory=TimedArray(np.arange(9).reshape(3, 3) * 20 * Hz, dt=70 * ms), seed=11
            ),
            name="chance",
        ),
        SurrogateNeuron(
            NEURONS,
            [random_model("rnn", (9, 2), seed=seed, head="linear") for seed in range(NEURONS)],
            threshold=RisingEdge(),
            recorded=RecordedSpikes(
                [0, 1, 2, 2], [3, 5, 19, 0], [1, 1.5, 2, 8] * ms, period=9 * ms
            ),
            refractory=1 * ms,
            precision="float64",
            name="rise",
        ),
        SurrogateNeuron(NEURONS, ruled_model("local_peak"), name="peak"),
        SurrogateNeuron(NEURONS, ruled_model("hysteresis"), name="return"),
        SurrogateNeuron(
            NEURONS,
            random_model("elm", (6, 2), seed=4, head="linear", branches=irregular_branches(INPUTS)),
            threshold=RisingEdge(),
            name="dendrite",
        ),
    ]
    lif = NeuronGroup(
        2 * NEURONS,
        "dv/dt = -v / (10*ms) : 1",
        threshold="v > 1",
        reset="v = 0",
        method="exact",
        name="lif",
    )
    members = [lif]
    for number, cells in enumerate(groups):
        index, ticks = random_arrivals(
            np.random.default_rng(number), NEURONS * INPUTS, DURATION_MS, 3500
        )
        source = SpikeGeneratorGroup(
            NEURONS * INPUTS, index, ticks * 0.1 * ms, name=f"source_{cells.name}"
        )
        into = Synapses(source, cells.inputs, on_pre="x_post += 1", name=f"into_{cells.name}")
        into.connect(i=np.arange(NEURONS * INPUTS), j=np.arange(NEURONS * INPUTS))
        members += [cells, source, into]
    for cells in groups[:2]:
        out = Synapses(cells, lif, on_pre="v_post += 0.4", delay=0.3 * ms, name=f"out_{cells.name}")
        out.connect(i=[0, 0, 1, 2, 2], j=[0, 1, 2, 3, 4])
        members.append(out)
    back = Synapses(lif, groups[0].inputs, on_pre="x_post += 1", delay=1.3 * ms, name="back")
    back.connect(
        i=[0, 1, 2, 3, 4], j=groups[0].channel([0, 1, 2, 0, 1], [1, 2, 3, 4, 5], "inhibitory")
    )
    spikes = {
        group.name: SpikeMonitor(group, name=f"spikes_{group.name}") for group in (lif, *groups)
    }
    # Cython compiles for seconds for each of them.
    traced = [] if mode == "cython" else groups
    traces = {
        cells.name: StateMonitor(cells, ["p", "v"], True, dt=1 * ms, name=f"trace_{cells.name}")
        for cells in traced
    }
    network = Network(members, back, list(spikes.values()), list(traces.values()))
    chunks = (70.4, DURATION_MS - 70.4) if mode == "two-runs" else (DURATION_MS,)
    for chunk in chunks:
        network.run(chunk * ms)
    if standalone:
        device.build(directory=f"{folder}/a {mode}", with_output=False)
    result = {"lost": np.concatenate([cells.lost[:] for cells in groups])}
    for name, monitor in spikes.items():
        result[f"{name}_i"] = monitor.i[:]
        result[f"{name}_t"] = np.round(np.asarray(monitor.t / ms) * 10).astype(int)
    for cells in groups:
        result[f"{cells.name}_background_i"] = list(cells.background_rates.values())
    for cells in groups:
        result[f"{cells.name}_state"] = cells.hidden_state
    for name, monitor in traces.items():
        result[f"{name}_p"], result[f"{name}_v"] = monitor.p[:], np.asarray(monitor.v[:])
    np.savez(f"{folder}/{mode}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
