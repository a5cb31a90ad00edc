"""Three surrogates under Poisson input, drawn to poisson_traces.png.

python examples/poisson_traces.py [model.safetensors]
"""

import numpy as np
from brian2 import (
    Hz,
    PoissonGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    ms,
    mV,
    prefs,
    run,
    second,
    seed,
)
from matplotlib import pyplot as plt
from trained_model import model_path

from surrogate import SurrogateNeuron

prefs.codegen.target = "numpy"  # starts at once; for long runs leave Brian2 its choice
seed(1)

cells = SurrogateNeuron(3, model_path())

# A presynaptic neuron for each channel, at rates that the model has seen in training: of excitation
# nine tenths up their range, of inhibition at its middle.
seen_hz = cells.population.card.input_rate_hz
rate = cells.channels.per_channel(
    {
        "excitatory": np.interp(0.9, [0, 1], seen_hz["excitatory"]),
        "inhibitory": np.mean(seen_hz["inhibitory"]),
    }
)
background = PoissonGroup(len(cells.inputs), rates=np.tile(rate, len(cells)) * Hz, dt=1 * ms)
drive = Synapses(background, cells.inputs, on_pre="x_post += 1")
drive.connect(j="i")

traces = StateMonitor(cells, ["v", "p"], record=True, dt=1 * ms)
spikes = SpikeMonitor(cells)
run(1 * second, report="text")

figure, (above, below) = plt.subplots(2, sharex=True, figsize=(9, 5), layout="constrained")
above.plot(traces.t / ms, traces.v.T / mV, lw=0.8)
above.set_ylabel("soma voltage (mV)")
below.plot(traces.t / ms, traces.p.T, lw=0.8)
below.set(xlabel="time (ms)", ylabel="spike probability")
for time, neuron in zip(spikes.t / ms, spikes.i, strict=True):
    above.axvline(time, color=f"C{neuron}", lw=0.6, ls=":")
figure.savefig("poisson_traces.png")
print(
    f"surrogates: {spikes.num_spikes} spikes; input", cells.input_rates, f"; {sum(cells.lost)} lost"
)
