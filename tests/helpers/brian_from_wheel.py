"""Run one network with a trained model at run time and in C++ standalone, and compare.

    python brian_from_wheel.py MODEL FOLDER

Started by ``.ci/run`` outside the checkout, with the package as a user would have installed it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def run(model: str, folder: Path, mode: str) -> None:
    """Drive ten surrogates with recorded input, and write their spikes and voltages."""
    from brian2 import SpikeGeneratorGroup, SpikeMonitor, StateMonitor, Synapses, prefs, set_device
    from brian2 import ms as millisecond
    from brian2 import run as simulate

    from surrogate import SurrogateNeuron
    from surrogate.brian_bridge import LocalPeak

    if mode == "standalone":
        set_device("cpp_standalone", directory=str(folder / "a program"))
    else:
        prefs.codegen.target = "numpy"
    time, channel = np.nonzero(np.random.default_rng(0).random((200, 1278)) < 0.03)
    source = SpikeGeneratorGroup(1278, channel, time * millisecond)
    # By its card's level a model that has hardly been trained hardly spikes.
    cells = SurrogateNeuron(10, model, threshold=LocalPeak(-50.0), refractory=2 * millisecond)
    drive = Synapses(source, cells.inputs, on_pre="x_post += 1")
    drive.connect(i=np.tile(np.arange(1278), 10), j=np.arange(12780))
    spikes, trace = SpikeMonitor(cells), StateMonitor(cells, "v", record=True)
    simulate(200 * millisecond)
    found = {
        "spikes": sorted(zip(map(float, spikes.t / millisecond), map(int, spikes.i), strict=True)),
        "v": np.asarray(trace.v).tolist(),
    }
    (folder / f"{mode}.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    model, folder = sys.argv[1], Path(sys.argv[2])
    found = {}
    for mode in ("runtime", "standalone"):
        subprocess.run([sys.executable, __file__, model, str(folder), mode], check=True)
        found[mode] = json.loads((folder / f"{mode}.json").read_text(encoding="utf-8"))
    ours, theirs = found["runtime"], found["standalone"]
    difference = np.abs(np.subtract(ours["v"], theirs["v"])).max()
    print(f"{len(ours['spikes'])} spikes, voltages differ by at most {difference * 1e3:.2g} mV")
    assert ours["spikes"], "no spikes, so nothing was compared"
    assert ours["spikes"] == theirs["spikes"]
    assert difference < 1e-6


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    else:
        main()
