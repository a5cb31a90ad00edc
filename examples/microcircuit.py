"""L5 pyramidal cells (surrogates) and integrate-and-fire interneurons that inhibit them. Their
spikes are drawn to microcircuit.png.

python examples/microcircuit.py [model.safetensors]
"""

import numpy as np
from brian2 import (
    Hz,
    NeuronGroup,
    PoissonGroup,
    SpikeMonitor,
    Synapses,
    ms,
    mV,
    prefs,
    run,
    seed,
)
from matplotlib import pyplot as plt
from trained_model import model_path

from surrogate import SurrogateNeuron
from surrogate.brian_bridge import Stochastic

prefs.codegen.target = "numpy"  # starts at once; for long runs leave Brian2 its choice
seed(2)
rng = np.random.default_rng(2)

pyramidal = SurrogateNeuron(20, model_path(), threshold=Stochastic(seed=2), refractory=2 * ms)
interneurons = NeuronGroup(
    20,
    "dv/dt = (-65*mV - v + current) / (10*ms) : volt (unless refractory)\ncurrent : volt",
    threshold="v > -50*mV",
    reset="v = -65*mV",
    refractory=2 * ms,
    method="exact",
)
interneurons.v = -65 * mV
interneurons.current = rng.uniform(13, 17, 20) * mV

card = pyramidal.population.card
seen_hz = card.input_rate_hz  # lowest and highest mean rate in training
rate = card.channels.per_channel({group: np.mean(seen_hz[group]) for group in seen_hz})
background = PoissonGroup(len(rate), rates=rate * Hz, dt=1 * ms)
drive = Synapses(background, pyramidal.inputs, on_pre="x_post += 1")
drive.connect(i=np.tile(np.arange(len(rate)), 20), j=np.arange(20 * len(rate)))

excite = Synapses(pyramidal, interneurons, on_pre="v_post += 2*mV", delay=0.8 * ms)
excite.connect(p=0.5)

# Each interneuron inhibits every pyramidal cell on three segments near the soma.
near = np.argsort(card.segments["distance_um"])[:100]
source = np.repeat(np.arange(20), 20 * 3)
target = np.tile(np.repeat(np.arange(20), 3), 20)
segment = rng.choice(near, len(source))
inhibit = Synapses(interneurons, pyramidal.inputs, on_pre="x_post += 1", delay=1.2 * ms)
inhibit.connect(i=source, j=pyramidal.channel(target, segment, "inhibitory"))

pyramidal_spikes, interneuron_spikes = SpikeMonitor(pyramidal), SpikeMonitor(interneurons)
run(500 * ms, report="text")

figure, axes = plt.subplots(2, sharex=True, figsize=(9, 4), layout="constrained")
monitors = {"pyramidal": pyramidal_spikes, "interneuron": interneuron_spikes}
for axis, (name, monitor) in zip(axes, monitors.items(), strict=True):
    axis.plot(monitor.t / ms, monitor.i, "|", ms=5)
    axis.set_ylabel(f"{name} cell")
    print(f"{name:>12}: {monitor.num_spikes / 20 / 0.5:.1f} Hz")
axes[-1].set_xlabel("time (ms)")
figure.savefig("microcircuit.png")
