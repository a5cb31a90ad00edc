"""Draws docs/trace.svg: a test trial of the bundled neuron, and a surrogate given the same input.

surrogate train --arch lstm
python docs/draw_trace.py runs/lstm-256-64-2-tuned-s0/model.safetensors

Trial and stretch were chosen by hand, because they have many spikes: five of the eight test trials
have two or fewer.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import surrogate
from surrogate.datasets.trial import spike_bins
from surrogate.model.prediction import predict_dataset

TRIAL, SHOWN = 101, slice(1500, 4000)
BLACK, ORANGE = "black", "#D55E00"  # of Okabe and Ito's palette

plt.rcParams["svg.hashsalt"] = "trace"  # the same figure gives the same file
model = surrogate.load(sys.argv[1])
data = surrogate.datasets.open()
trial = data[TRIAL]
logits, predicted = predict_dataset(model.stack, data, [TRIAL])
emitted = np.flatnonzero(model.spike_rule.emit(logits)[0])

figure, (raster, trace) = plt.subplots(
    2, sharex=True, figsize=(9, 3.4), height_ratios=(1, 4), layout="constrained"
)
rows = [
    ("neuron", spike_bins(trial.spike_time_ms, data.dt_ms), trial.voltage_mV["soma"], BLACK, 1.6),
    ("surrogate", emitted, predicted[0], ORANGE, 1.0),
]
for row, (name, spikes, voltage, colour, width) in enumerate(rows):
    spikes = spikes[(spikes >= SHOWN.start) & (spikes < SHOWN.stop)]
    raster.vlines(spikes, row - 0.35, row + 0.35, color=colour, linewidth=1.2)
    trace.plot(range(SHOWN.start, SHOWN.stop), voltage[SHOWN], color=colour, lw=width, label=name)
    print(f"{name}: {len(spikes)} spikes")
raster.set_yticks([0, 1], ["neuron's spikes", "surrogate's spikes"])
raster.set_ylim(1.6, -0.6)
trace.set(xlabel="time (ms)", ylabel="soma voltage (mV)", xlim=(SHOWN.start, SHOWN.stop))
trace.legend(loc="upper center", ncols=2, frameon=False)
for axes in (raster, trace):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_name("trace.svg"), metadata={"Date": None})
