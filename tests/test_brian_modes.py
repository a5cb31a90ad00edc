"""One script, every mode of Brian2, the same spikes; and what the modes refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from brian2 import Network, defaultclock, device, ms, prefs, set_device
from brian2.devices.cpp_standalone.device import CPPStandaloneDevice
from brian2.devices.device import all_devices, reset_device
from brian_modes import DURATION_MS, MODES, NEURONS
from brian_tools import random_model

from surrogate import ArtificialUnits, SurrogateNeuron
from surrogate.brian_bridge.philox import uniform
from surrogate.errors import UsageError

SCRIPT = Path(__file__).with_name("brian_modes.py")


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
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    results = {mode: dict(np.load(tmp_path / f"{mode}.npz")) for mode in MODES}
    first = results["numpy"]
    for name in ("level", "chance", "rise", "lif"):
        assert 50 < len(first[f"{name}_i"]) < 2 * NEURONS * DURATION_MS / 2
    differences = {mode: 0.0 for mode in MODES[1:]}
    for mode in differences:
        for key, values in results[mode].items():
            if key.endswith(("_i", "_t")) or key == "lost":
                np.testing.assert_array_equal(values, first[key], f"{mode}: {key}")
            else:
                differences[mode] = max(differences[mode], np.abs(values - first[key]).max())
    margins = _margins(first)
    with capsys.disabled():
        print("\nsmallest distance from threshold:", margins)
        print("largest difference from numpy:", differences)
    # Identical spikes are no luck if modes differ by less than any output does from its threshold.
    assert max(differences.values()) < 1e-5
    assert margins["level"] > 2 * max(differences.values())


def _margins(result: dict[str, np.ndarray]) -> dict[str, float]:
    """How close outputs came to what decided on a spike: in logits, or in probability."""
    level = random_model("lstm", (7, 5, 2), seed=1).spike_rule.logit
    rise = [
        random_model("rnn", (9, 2), seed=seed, head="linear").spike_rule.logit
        for seed in range(NEURONS)
    ]
    drawn = np.stack([uniform(11, step, NEURONS) for step in range(1, DURATION_MS)], axis=1)
    logits = {name: np.log(p[:, 1:]) - np.log1p(-p[:, 1:]) for name, p in _probabilities(result)}
    return {
        "level": float(np.abs(logits["level"] - level).min()),
        "rise": float(np.abs(logits["rise"] - np.array(rise)[:, None]).min()),
        "chance": float(np.abs(result["chance_p"][:, 1:] - drawn).min()),
    }


def _probabilities(result: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("level", "rise"):
        yield name, result[f"{name}_p"]


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
