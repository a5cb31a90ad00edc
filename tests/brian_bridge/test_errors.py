"""Mistakes in using a SurrogateNeuron are refused, with the object, the value and the cure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from brian2 import (
    BrianObjectException,
    Hz,
    Network,
    NeuronGroup,
    PoissonGroup,
    PoissonInput,
    Synapses,
    defaultclock,
    ms,
    prefs,
    start_scope,
    volt,
)

from helpers.brian import random_model
from surrogate import SurrogateNeuron
from surrogate.brian_bridge import Background, Hysteresis, Level, Stochastic
from surrogate.errors import DataError, UsageError
from surrogate.model.model_file import save


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target = before


def _message(network: Network) -> str:
    with pytest.raises(BrianObjectException) as caught:
        network.run(2 * ms)
    assert isinstance(caught.value.__cause__, UsageError)
    return str(caught.value.__cause__)


def test_what_the_model_computes_is_read_only() -> None:
    cells = SurrogateNeuron(2, random_model(), name="cells")
    for name in ("v", "p", "lost"):
        with pytest.raises(TypeError, match="read-only"):
            setattr(cells, name, 1 * volt if name == "v" else 1)
    source = PoissonGroup(1, rates=1 * Hz)
    kick = Synapses(source, cells, on_pre="v_post += 1*mV", name="kick")
    kick.connect()
    message = _message(Network(cells, source, kick))
    for word in ("'kick'", "v_post += 1*mV", "inputs"):
        assert word in message
    cells = SurrogateNeuron(2, random_model())
    cells.run_regularly("p = 0.5", dt=1 * ms)
    assert "p = 0.5" in _message(Network(cells))


@pytest.mark.parametrize("subgroup", [False, True])
def test_synapses_onto_the_neurons_are_sent_to_their_inputs(subgroup) -> None:
    cells = SurrogateNeuron(2, random_model(), name="cells")
    source = PoissonGroup(1, rates=1 * Hz)
    target = cells[:1] if subgroup else cells
    wrong = Synapses(source, target, on_pre="x_post += 1", name="wrong")
    wrong.connect()
    message = _message(Network(cells, source, wrong))
    assert "'wrong'" in message
    assert "cells.inputs" in message


def test_fractions_of_spikes_are_refused() -> None:
    constants = {"w": 0.5, "one": 1}
    for code, fine in [
        ("x_post += w", False),
        ("x_post += 1.5", False),
        ("x_post = x_post + 1/2", False),
        ("x_post += one", True),
        ("x_post += 2 * weight", True),
        ("x_post += int(rand() < 0.5)", True),
        ("x_post += scale", False),
        ("tmp = scale * 0.9\nx_post += tmp", False),
        ("tmp = 1; tmp += w; x_post += tmp", False),
        ("tmp = weight; tmp /= 2; x_post += tmp", False),
        ("tmp = int(scale > w)\nx_post += tmp * weight", True),
        ("scale = scale * 0.9\nx_post += one", True),
    ]:
        cells = SurrogateNeuron(1, random_model())
        source = PoissonGroup(1, rates=1 * Hz)
        model = "weight : integer\nscale : 1"
        synapses = Synapses(source, cells.inputs, model, on_pre=code, namespace=constants)
        synapses.connect(i=0, j=0)
        network = Network(cells, source, synapses)
        if fine:
            network.run(1 * ms)
        else:
            message = _message(network)
            assert re.split("[;\n] ?", code)[-1] in message
            assert "x_post += 1" in message
    cells = SurrogateNeuron(1, random_model())
    Network(cells, PoissonInput(cells.inputs, "x", 10, 50 * Hz, 1)).run(3 * ms)
    cells = SurrogateNeuron(1, random_model())
    assert "0.5" in _message(Network(cells, PoissonInput(cells.inputs, "x", 10, 50 * Hz, 0.5)))
    cells = SurrogateNeuron(1, random_model())
    Network(cells, PoissonInput(cells.inputs, "x", 10, 5000 * Hz, weight=1.0)).run(3 * ms)
    assert cells.lost[0] > 50


def test_every_way_to_write_is_seen() -> None:
    cells = SurrogateNeuron(1, random_model(), name="cells")
    cells.run_on_event("spike", "v = 0*mV")
    assert "v = 0*mV" in _message(Network(cells))
    source = NeuronGroup(2, "u : volt\nr : 1\nn : integer")
    for model, onto_inputs, words in [
        ("v_post = u_pre : volt (summed)", False, ["'synapses", "v_post = u_pre", "inputs"]),
        ("p_post = r_pre : 1 (summed)", False, ["p_post = r_pre"]),
        ("x_post = r_pre : 1 (summed)", True, ["'synapses", "x_post = r_pre", "taken back"]),
        ("x_post = n_pre : integer (summed)", True, ["x_post = n_pre", "x_post += 1"]),
    ]:
        cells = SurrogateNeuron(1, random_model())
        synapses = Synapses(source, cells.inputs if onto_inputs else cells, model)
        synapses.connect(j="0")
        network = Network(cells, source, synapses)
        message = _message(network)
        assert all(word in message for word in words), message


def test_weights_that_take_spikes_back_are_refused() -> None:
    for code, weights, named in [
        ("x_post += w", [1, -1], "adds -1"),
        ("x_post = x_post + (2 * w - 1)", [1, 0], "adds -1"),
        ("x_post += -1", [1, 1], "adds -1"),
        ("x_post += down", [1, 1], "adds -2"),
        ("x_post = w", [1, 0], "x_post += 1"),
        ("x_post = x_post + w", [1, 0], None),
    ]:
        cells = SurrogateNeuron(1, random_model())
        source = PoissonGroup(2, rates=0 * Hz)
        synapses = Synapses(
            source, cells.inputs, "w : integer", on_pre=code, namespace={"down": -2}, name="own"
        )
        synapses.connect(i=[0, 1], j=[3, 3])
        synapses.w = weights
        network = Network(source, cells, synapses)
        if named is None:
            network.run(1 * ms)
        else:
            message = _message(network)
            assert code in message
            assert named in message


def test_python_sets_counts_to_whole_numbers_only() -> None:
    cells = SurrogateNeuron(2, random_model(), name="cells")
    for where, value in [
        (slice(None), 0.5),
        (slice(None), -1),
        (3, 1.5),
        ("i == 3", 0.5),
        (slice(None), "0.5 * i"),
    ]:
        for inputs in (cells.inputs, cells[1:].inputs):
            with pytest.raises(UsageError, match="whole numbers"):
                inputs.x[where] = value
    with pytest.raises(UsageError, match=re.escape("cells_inputs.x = 0.5")):
        cells.inputs.x = 0.5
    cells.inputs.x = 2.0
    cells[1:].inputs.x[3] = 1
    cells.inputs.x["i == 4"] = "1 + 2"
    assert cells.inputs.x[:5].tolist() == [2, 2, 2, 2, 3]
    assert cells[1:].inputs.x[3] == 1


@pytest.mark.parametrize("code", ["x_post -= 1", "x_post *= 2", "x_post /= 2"])
def test_spikes_cannot_be_taken_back(code) -> None:
    cells = SurrogateNeuron(1, random_model())
    source = PoissonGroup(1, rates=1 * Hz)
    synapses = Synapses(source, cells.inputs, on_pre=code)
    synapses.connect(i=0, j=0)
    message = _message(Network(cells, source, synapses))
    assert code in message
    assert "x_post += 1" in message


def test_a_schedule_that_closes_bins_too_late_is_refused() -> None:
    cells = SurrogateNeuron(1, random_model())
    network = Network(cells)
    network.schedule = ["synapses", "start", "groups", "thresholds", "resets", "end"]
    assert "'synapses'" in _message(network)


def test_wrong_arguments_are_named_with_the_cure(tmp_path) -> None:
    model = random_model()
    bare = random_model()
    bare.card.spike_rule = None
    damaged = tmp_path / "damaged.h5"
    save(damaged, model.stack, model.card)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    for arguments, options, error, words in [
        ((1, tmp_path / "missing.h5"), {}, DataError, ["missing.h5", "no such file"]),
        ((1, damaged), {}, DataError, ["damaged"]),
        ((1, bare), {}, UsageError, ["no spike rule", "threshold="]),
        ((1, bare), {"threshold": "p > 0.5"}, UsageError, ["refractory="]),
        ((2, [model]), {}, UsageError, ["1 models for 2 neurons"]),
        ((2, [model, random_model(inputs=30)]), {}, UsageError, ["model 1", "input_size=30"]),
        (
            (2, [model, random_model(refractory_bins=7)]),
            {},
            UsageError,
            ["2.0, 7.0", "refractory="],
        ),
        ((1, model), {"threshold": 0.5}, UsageError, ["0.5", "Level()"]),
        ((1, model), {"threshold": Level}, UsageError, ["Level()"]),
        ((1, model), {"threshold": Hysteresis()}, UsageError, ["give both levels"]),
        ((1, model), {"precision": "float16"}, UsageError, ["float16", "float32"]),
        ((1, model), {"device": "gpu"}, UsageError, ["'gpu'", "'cuda'"]),
        ((1, model), {"threads": 0}, UsageError, ["threads=0"]),
        ((1, model), {"threads": 1.5}, UsageError, ["threads=1.5"]),
        ((1, None), {}, UsageError, ["None", "model.safetensors"]),
        ((1, [3]), {}, UsageError, ["model 3", "model.safetensors"]),
        (("2", model), {}, UsageError, ["N='2'", "whole number"]),
        ((0, model), {}, UsageError, ["N=0"]),
        ((1, model), {"refractory": 2}, UsageError, ["refractory=2", "2*ms"]),
        ((1, tmp_path), {}, DataError, ["folder", "model.safetensors"]),
    ]:
        with pytest.raises(error) as caught:
            SurrogateNeuron(*arguments, **options)
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(UsageError, match="-1"):
        Stochastic(-1)
    with pytest.raises(UsageError, match="group='excitatory'"):
        SurrogateNeuron(1, model).channel(0, 1, kind="excitatory")
    assert type(Stochastic(np.int64(3)).seed) is int
    for levels in ((1.0,), (1.0, 2.0), (None, 1.0)):
        with pytest.raises(UsageError, match="expected two levels, low_logit at most logit"):
            Hysteresis(*levels)
    SurrogateNeuron(1, bare, threshold="p > 0.5", refractory=2 * ms)


def test_errors_and_warnings_name_the_users_line(tmp_path) -> None:
    script = tmp_path / "network.py"
    script.write_text(
        "cells = SurrogateNeuron(\n"
        "    1, model, background=Background(excitatory='rate'), name='cells')\n"
        "network = Network(cells)\n"
        "network.run(200 * ms)\n"
    )
    model = random_model(input_rate_hz={"excitatory": [20, 100], "inhibitory": [0, 100]})
    names = {
        "__name__": "__main__",
        **{"SurrogateNeuron": SurrogateNeuron, "Background": Background, "model": model},
        **{"Network": Network, "ms": ms},
    }
    code = compile(script.read_text(), str(script), "exec")
    with pytest.raises(BrianObjectException) as caught:
        exec(code, names)
    assert f"File '{script}', line 1" in str(caught.value)
    assert "cells = SurrogateNeuron(" in str(caught.value)
    for made in (names["cells"], *names["cells"].contained_objects):
        assert f"File '{script}', line 1" in made._creation_stack
    with pytest.warns(RuntimeWarning, match="synapses received") as warned:
        exec(code, names | {"rate": 1 * Hz})
    (warning,) = [one for one in warned if "synapses received" in str(one.message)]
    assert (warning.filename, warning.lineno) == (str(script), 4)


def test_without_brian2_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['brian2'] = None\n"
        "import surrogate\n"
        "try: surrogate.SurrogateNeuron\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert "brian2" in done.stdout


def test_importing_surrogate_does_not_import_brian2() -> None:
    code = "import sys, surrogate; surrogate.RecurrentStack; print('brian2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
