"""Four kinds of neurons in one network: Hodgkin-Huxley, integrate-and-fire, surrogates, and an
artificial readout of torch. The spikes are drawn to mixed_network.png.

python examples/mixed_network.py [--standalone] [model.safetensors]

With --standalone the same network is compiled to a C++ program, without the readout: its module is
Python.
"""

import sys

import numpy as np
import torch
from brian2 import (
    Hz,
    Network,
    NeuronGroup,
    PoissonGroup,
    SpikeMonitor,
    Synapses,
    defaultclock,
    ms,
    mV,
    nA,
    nS,
    pF,
    prefs,
    seed,
    set_device,
    uS,
)
from matplotlib import pyplot as plt
from trained_model import model_path

from surrogate import ArtificialUnits, SurrogateNeuron
from surrogate.brian_bridge import Stochastic

standalone = "--standalone" in sys.argv
if standalone:
    set_device("cpp_standalone", directory="runs/mixed network")
else:
    prefs.codegen.target = "numpy"  # starts at once; for long runs leave Brian2 its choice
defaultclock.dt = 0.05 * ms
seed(3)
rng = np.random.default_rng(3)

cells = SurrogateNeuron(
    10, model_path(), threshold=Stochastic(seed=3), refractory=2 * ms, name="surrogates"
)
seen_hz = cells.population.card.input_rate_hz  # lowest and highest mean rate in training
rate = cells.channels.per_channel({group: np.mean(seen_hz[group]) for group in seen_hz})
channels = cells.channels.size
background = PoissonGroup(channels, rates=rate * Hz, dt=1 * ms)
drive = Synapses(background, cells.inputs, on_pre="x_post += 1")
drive.connect(i=np.tile(np.arange(channels), 10), j=np.arange(10 * channels))

lif = NeuronGroup(
    40,
    "dv/dt = (current - v) / (12*ms) : 1 (unless refractory)\ncurrent : 1",
    threshold="v > 1",
    reset="v = 0",
    refractory=2 * ms,
    method="exact",
    name="integrate_and_fire",
)
lif.v = rng.random(40)
lif.current = rng.uniform(1.01, 1.1, 40)

# A spiking cell with the currents of Hodgkin and Huxley, parameters of Traub and Miles (1991).
hh = NeuronGroup(
    5,
    """
    dv/dt = (-g_l*(v + 60*mV) - g_na*m**3*h*(v - 50*mV) - g_k*n**4*(v + 90*mV) + drive) / c : volt
    dm/dt = 0.32/mV*4*mV/exprel((-50*mV - v)/(4*mV))/ms*(1-m)
            - 0.28/mV*5*mV/exprel((v + 23*mV)/(5*mV))/ms*m : 1
    dn/dt = 0.032/mV*5*mV/exprel((-48*mV - v)/(5*mV))/ms*(1-n)
            - 0.5*exp((-53*mV - v)/(40*mV))/ms*n : 1
    dh/dt = 0.128*exp((-46*mV - v)/(18*mV))/ms*(1-h) - 4/(1 + exp((-23*mV - v)/(5*mV)))/ms*h : 1
    dsyn/dt = -syn / (5*ms) : amp
    drive = constant + syn : amp
    constant : amp
    """,
    threshold="v > -20*mV",
    refractory="v > -20*mV",
    method="exponential_euler",
    namespace={"c": 200 * pF, "g_l": 10 * nS, "g_na": 20 * uS, "g_k": 6 * uS},
    name="hodgkin_huxley",
)
hh.v = -65 * mV
hh.constant = rng.uniform(0.1, 0.2, 5) * nA

# Surrogates excite the Hodgkin-Huxley cells; these and the others inhibit surrogates.
excite = Synapses(cells, hh, on_pre="syn_post += 0.3*nA", delay=0.5 * ms)
excite.connect()
onto = cells.channels.slice_of("inhibitory")
inhibit = {}
for source in (lif, hh):
    synapses = Synapses(source, cells.inputs, on_pre="x_post += 1", delay=1.3 * ms)
    number = np.repeat(np.arange(len(source)), 20)
    target = rng.integers(0, len(cells), len(number))
    segment = rng.integers(0, onto.stop - onto.start, len(number))
    synapses.connect(i=number, j=cells.channel(target, segment, "inhibitory"))
    inhibit[source.name] = synapses

members = [cells, background, drive, lif, hh, excite, *inhibit.values()]
monitored = [cells, lif, hh]
if not standalone:
    # Each unit receives one population, and spikes while that is active.
    class LeakySum(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, state: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            state = 0.9 * state + x
            return state, state

    units = ArtificialUnits(
        3,
        LeakySum(),
        input_size=1,
        state_size=1,
        step=5 * ms,
        threshold="y > level",
        refractory=10 * ms,
        equations="level : 1",
        name="artificial_readout",
    )
    units.level = [2, 42, 10]
    for unit, source in enumerate((cells, lif, hh)):
        heard = Synapses(source, units.inputs, on_pre="x_post += 1")
        heard.connect(j=str(unit))
        members.append(heard)
    # Their spikes excite a segment of every surrogate.
    answer = Synapses(units, cells.inputs, on_pre="x_post += 1", delay=2 * ms)
    answer.connect(
        i=np.repeat(np.arange(3), 10), j=cells.channel(np.tile(np.arange(10), 3), 7, "excitatory")
    )
    members += [units, answer]
    monitored.append(units)

monitors = {group.name: SpikeMonitor(group) for group in monitored}
network = Network(members, list(monitors.values()))
network.run(400 * ms, report="text")

figure, axes = plt.subplots(
    len(monitors),
    sharex=True,
    figsize=(9, 7),
    layout="constrained",
    height_ratios=[2, 4, 1, 1][: len(monitors)],
)
for axis, (name, monitor) in zip(axes, monitors.items(), strict=True):
    axis.plot(monitor.t / ms, monitor.i, "|", ms=4)
    axis.set_ylabel(name.replace("_", " "), rotation=0, ha="right")
    print(f"{name:>20}: {monitor.num_spikes} spikes")
axes[-1].set_xlabel("time (ms)")
figure.savefig("mixed_network.png")
