"""One script, every mode of Brian2, the same spikes; and what the modes refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from brian2 import (
    Hz,
    Network,
    SpikeMonitor,
    TimedArray,
    defaultclock,
    device,
    ms,
    mV,
    prefs,
    set_device,
)
from brian2.devices.cpp_standalone.device import CPPStandaloneDevice
from brian2.devices.device import all_devices, reset_device

from helpers.brian import INPUTS, feed, offline, random_model
from helpers.brian_modes import DURATION_MS, MODES, NEURONS, ruled_model
from surrogate import ArtificialUnits, SurrogateNeuron
from surrogate.brian_bridge import Background
from surrogate.brian_bridge.poisson import PoissonChannels
from surrogate.errors import UsageError
from surrogate.model.philox import uniform

SCRIPT = Path(__file__).parents[1] / "helpers" / "brian_modes.py"


@pytest.fixture
def standalone(tmp_path) -> Iterator[Path]:
    """C++ standalone as the active device, with a project folder whose name has a space."""
    folder = tmp_path / "a project"
    set_device("cpp_standalone", directory=str(folder), build_on_run=False)
    defaultclock.dt = 0.1 * ms
    yield folder
    device.reinit()
    reset_device()


@pytest.mark.slow
def test_all_modes_give_the_same_spikes(tmp_path, capsys) -> None:
    for mode in MODES:
        # Outside the checkout, where only the installed package can be found.
        command = [sys.executable, "-W", "ignore", str(SCRIPT), mode, str(tmp_path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    results = {mode: dict(np.load(tmp_path / f"{mode}.npz")) for mode in MODES}
    first = results["numpy"]
    for name in ("level", "chance", "rise", "peak", "return", "dendrite", "lif"):
        assert 50 < len(first[f"{name}_i"]) < 2 * NEURONS * DURATION_MS / 2
    for mode in MODES[1:]:
        for key, values in results[mode].items():
            if key.endswith(("_i", "_t")) or key == "lost":
                np.testing.assert_array_equal(values, first[key], f"{mode}: {key}")
            else:
                np.testing.assert_allclose(values, first[key], atol=1e-5, err_msg=f"{mode}: {key}")
    margins, decisive = _margins(first), _decisive(first)
    differences = {
        name: max(
            float(np.abs(_decisive(results[mode])[name] - decisive[name]).max())
            for mode in MODES[1:]
            if f"{name}_p" in results[mode]
        )
        for name in margins
    }
    with capsys.disabled():
        print("\nsmallest distance from threshold:", margins)
        print("largest difference from numpy, in the same units:", differences)
    # Identical spikes are no luck if modes differ by less than any output does from its threshold.
    for name, margin in margins.items():
        assert margin > 2 * differences[name], name


def _margins(result: dict[str, np.ndarray]) -> dict[str, float]:
    """How close outputs came to what decided on a spike."""
    level = random_model("lstm", (7, 5, 2), seed=1).spike_rule.logit
    rise = [
        random_model("rnn", (9, 2), seed=seed, head="linear").spike_rule.logit
        for seed in range(NEURONS)
    ]
    ruled = ruled_model("hysteresis").spike_rule
    drawn = np.stack([uniform(11, step, NEURONS) for step in range(1, DURATION_MS)], axis=1)
    bounds = {
        "level": level,
        "rise": np.array(rise)[:, None],
        "chance": drawn,
        "peak": ruled.logit,
        "return": np.array([ruled.logit, ruled.low_logit])[:, None, None],
    }
    decisive = _decisive(result)
    margins = {
        name: float(np.abs(values - bounds[name]).min()) for name, values in decisive.items()
    }
    steps = float(np.abs(np.diff(decisive["peak"], axis=1)).min())
    return margins | {"peak": min(margins["peak"], steps)}


def _decisive(result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What decided on a spike in each bin: logits, or probabilities where it was drawn."""
    names = ("level", "chance", "rise", "peak", "return")
    p = {name: result[f"{name}_p"][:, 1:] for name in names}
    logits = {name: np.log(p[name]) - np.log1p(-p[name]) for name in names if name != "chance"}
    return logits | {"chance": p["chance"]}


def test_the_standalone_project_holds_weights_and_header(standalone) -> None:
    model = random_model("gru", (4, 2))
    cells = SurrogateNeuron(2, model, name="cells")
    Network(cells).run(5 * ms)
    device.build(directory=str(standalone), compile=False, run=False)
    (source,) = (standalone / "code_objects").glob("cells_step_codeobject.cpp")
    (header,) = [
        line.split('"')[1]
        for line in source.read_text().splitlines()
        if '.h"' in line and "standalone" in line
    ]
    assert Path(header).is_file()
    assert (Path(header).parent / "../kernels/cpu/stack.h").is_file()
    (weights,) = (standalone / "static_arrays").glob("*weights*")
    parameters = [tensor.numpy().ravel() for tensor in model.state_dict().values()]
    np.testing.assert_array_equal(np.fromfile(weights, np.float32), np.concatenate(parameters))


@pytest.mark.slow
def test_a_group_that_rested_closes_no_bin_it_was_not_in(standalone) -> None:
    prefs.devices.cpp_standalone.extra_make_args_unix = ["-j2"]
    model = random_model()
    cells = SurrogateNeuron(1, model)
    feeding = feed(cells.inputs, np.array([3, 4, 5]), np.array([5, 35, 75]))
    network = Network(cells, *feeding)
    network.run(3 * ms)  # steps at 1, 2 ms
    cells.active = False
    network.run(4 * ms)
    cells.active = True
    network.run(4.5 * ms)  # steps at 8, 9, 10, 11 ms
    device.build(directory=str(standalone), with_output=False)
    counts = np.zeros((1, 6, INPUTS), np.int64)
    counts[0, [0, 2], [3, 5]] = 1
    np.testing.assert_allclose(cells.v / mV, offline(model, counts)[1][:, -1], atol=1e-3)


@pytest.mark.slow
def test_a_program_takes_other_rates_and_counts_each_time_it_runs(standalone) -> None:
    prefs.devices.cpp_standalone.extra_make_args_unix = ["-j2"]
    model = random_model()
    of_times = TimedArray([0, 100] * Hz, dt=10 * ms)
    background = Background(excitatory=50 * Hz, inhibitory=of_times, seed=3)
    cells = SurrogateNeuron(2, model, background=background)
    spikes = SpikeMonitor(cells)
    network = Network(cells, spikes)
    network.run(21.5 * ms)
    device.build(directory=str(standalone), run=False)
    for rate, later, x in [(50, 100, 0), ([80, 20], 300, 0), (0, 0, 0), (0, 0, 2)]:
        changed = {cells.background_excitatory: rate * Hz, of_times: [later, later] * Hz}
        changed[cells.level] = [-100.0, 100.0]
        changed[cells.inputs.x] = x  # Brian2 alone ignores one number for 16-bit integers
        device.run(str(standalone), with_output=False, run_args=changed)
        counts = np.zeros((2, 21, INPUTS), np.int32)
        for step in range(1, 22):
            for group, now in enumerate([rate, later]):
                channels = PoissonChannels(3, group + 1, 10 * group, np.ones(10), 1e-3)
                channels.add(counts[:, step - 1], np.broadcast_to(np.array(now, float), 2), step)
        counts[:, 0] += x
        np.testing.assert_allclose(cells.v / mV, offline(model, counts)[1][:, -1], atol=1e-3)
        assert cells.lost[:].tolist() == np.maximum(counts - 1, 0).sum((1, 2)).tolist()
        assert spikes.count[:].tolist() == [11, 0]  # refractory for two bins


def test_artificial_units_are_refused_in_standalone(standalone) -> None:
    with pytest.raises(UsageError, match=r"set_device\('runtime'\)"):
        ArtificialUnits(1, lambda x, state: (x, state), input_size=1)


def test_devices_on_which_nothing_would_step_are_refused() -> None:
    class OtherDevice(CPPStandaloneDevice):
        """Like those of packages that generate other code: a derived class."""

    all_devices["other"] = OtherDevice()
    set_device("other", build_on_run=False)
    try:
        with pytest.raises(UsageError, match="OtherDevice"):
            SurrogateNeuron(1, random_model())
    finally:
        reset_device()
        del all_devices["other"]


def test_a_group_made_before_set_device_is_refused(tmp_path) -> None:
    prefs.codegen.target = "numpy"
    cells = SurrogateNeuron(1, random_model(), name="cells")
    set_device("cpp_standalone", directory=str(tmp_path), build_on_run=False)
    try:
        with pytest.raises(UsageError, match="set_device"):
            cells.before_run({})
    finally:
        device.reinit()
        reset_device()
        prefs.codegen.target = "auto"
