"""Artificial units take spikes or rates, keep their state, and emit spikes or values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from brian2 import (
    BrianObjectException,
    Hz,
    Network,
    NeuronGroup,
    PoissonGroup,
    SpikeGeneratorGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    defaultclock,
    ms,
    mV,
    prefs,
    start_scope,
)

from helpers.brian import random_model
from surrogate import ArtificialUnits, SurrogateNeuron
from surrogate.errors import UsageError

UNITS, INPUTS, OUTPUTS, STATE, STEPS = 3, 4, 2, 6, 30


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target = before


class Recurrent(torch.nn.Module):
    """A GRU cell and a readout, with fixed random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.readout = torch.nn.GRUCell(INPUTS, STATE), torch.nn.Linear(STATE, OUTPUTS)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.readout(state), state


def _units(**options) -> ArtificialUnits:
    sizes = {"input_size": INPUTS, "output_size": OUTPUTS, "state_size": STATE}
    return ArtificialUnits(UNITS, Recurrent(), name="units", **(sizes | options))


def _drive(units: ArtificialUnits) -> tuple[SpikeGeneratorGroup, Synapses, np.ndarray]:
    """Random spikes through weighted synapses, and what should have been summed in each step."""
    rng = np.random.default_rng(3)
    ticks, index = np.unique(
        np.stack([rng.integers(0, STEPS * 10, 200), rng.integers(0, UNITS * INPUTS, 200)]), axis=1
    )
    source = SpikeGeneratorGroup(UNITS * INPUTS, index, ticks * 0.1 * ms, name="source")
    synapses = Synapses(source, units.inputs, "w : 1", on_pre="x_post += w", name="synapses")
    synapses.connect(j="i")
    synapses.w = "0.1 + 0.05 * j"
    summed = np.zeros((STEPS, UNITS * INPUTS), np.float32)
    np.add.at(summed, (ticks // 10, index), 0.1 + 0.05 * index)
    return source, synapses, summed.reshape(STEPS, UNITS, INPUTS)


def _expected(summed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    module, state, rows = Recurrent(), torch.zeros(UNITS, STATE), []
    with torch.no_grad():
        for x in summed:
            y, state = module(torch.from_numpy(x), state)
            rows.append(y.numpy())
    return np.stack(rows), state.numpy()


def test_units_compute_what_their_module_computes() -> None:
    units = _units()
    source, synapses, summed = _drive(units)
    trace = StateMonitor(units, ["y_0", "y_1"], record=True, dt=1 * ms)
    Network(units, source, synapses, trace).run((STEPS + 1) * ms)
    rows, state = _expected(summed)
    found = np.stack([trace.y_0[:, 1:], trace.y_1[:, 1:]], axis=-1).swapaxes(0, 1)
    np.testing.assert_allclose(found, rows, atol=1e-6)
    np.testing.assert_allclose(units.state_array, state, atol=1e-6)


def test_state_is_stored_and_restored_in_the_middle_of_a_step() -> None:
    units = _units()
    source, synapses, summed = _drive(units)
    network = Network(units, source, synapses)
    network.run(12.4 * ms)
    network.store()
    network.run(5 * ms)
    network.restore()
    network.run((STEPS + 1 - 12.4) * ms)
    np.testing.assert_allclose(units.state_array, _expected(summed)[1], atol=1e-6)


def test_rates_stay_and_outputs_become_currents() -> None:
    rates = NeuronGroup(2, "r : 1")
    rates.r = [1, 2]
    units = ArtificialUnits(
        1, lambda x, state: (x.sum(1, keepdim=True), state), input_size=2, receives="rates"
    )
    into = Synapses(rates, units.inputs, "x_post = 3 * r_pre : 1 (summed)")
    into.connect(j="i")
    target = NeuronGroup(1, "dv/dt = current / ms : volt\ncurrent : volt", method="euler")
    out = Synapses(units, target, "current_post = y_pre * mV : volt (summed)")
    out.connect()
    Network(rates, units, into, target, out).run(5.05 * ms)
    assert units.y[0] == 9
    assert target.v[0] / mV > 30


def test_units_that_rested_close_no_bin_they_were_not_in() -> None:
    units = ArtificialUnits(1, lambda x, s: (x, s + 1), input_size=1, state_size=1)
    network = Network(units)
    network.run(3 * ms)  # steps at 1, 2 ms
    units.active = False
    network.run(4 * ms)
    units.active = True
    network.run(3 * ms)  # steps at 8, 9 ms
    assert units.state_array[0, 0] == 4


def test_thresholds_are_checked_at_the_steps_alone() -> None:
    units = ArtificialUnits(
        2,
        lambda x, state: (torch.ones(2, 1), state),
        input_size=1,
        step=2 * ms,
        threshold="y > 0.5",
        reset="passed += 1",
        equations="passed : 1",
    )
    spikes = SpikeMonitor(units)
    Network(units, spikes).run(7 * ms)
    np.testing.assert_allclose(spikes.spike_trains()[1] / ms, [2, 4, 6])
    assert units.passed[:].tolist() == [3, 3]


def test_a_readout_hears_surrogates_and_answers_them() -> None:
    cells = SurrogateNeuron(2, random_model(logit=-50.0, refractory_bins=1))
    units = ArtificialUnits(
        1, lambda x, state: (x, state), input_size=1, step=5 * ms, threshold="y >= 8"
    )
    ears = Synapses(cells, units.inputs, on_pre="x_post += 1")
    ears.connect(j="0")
    answer = Synapses(units, cells.inputs, on_pre="x_post += 2")
    answer.connect(i=0, j=cells.channel([0, 1], 0))
    Network(cells, units, ears, answer).run(16.1 * ms)
    assert units.y[0] == 10
    assert cells.lost[:].tolist() == [3, 3]


def test_wrong_use_is_named_with_the_cure() -> None:
    with pytest.raises(UsageError, match="'rates'"):
        _units(receives="both")
    with pytest.raises(ValueError, match="threshold"):
        _units(reset="y_0 = 0")
    for y, state in [((3, 1), (3, 6)), ((3, 2), (3, 5))]:
        units = ArtificialUnits(
            3,
            lambda x, s, y=y, state=state: (torch.zeros(y), torch.zeros(state)),
            input_size=1,
            output_size=2,
            state_size=6,
        )
        with pytest.raises(UsageError, match=r"\(3, 2\) for y and \(3, 6\)") as caught:
            Network(units).run(3 * ms)
        assert f"{y} and {state}" in str(caught.value)
    linear, cell = torch.nn.Linear(INPUTS, 1), torch.nn.GRUCell(INPUTS, STATE)
    for module, told in [(linear, "(input: "), (lambda x: x, "(x)"), (None, "None")]:
        with pytest.raises(UsageError) as caught:
            ArtificialUnits(1, module, input_size=INPUTS)
        assert told in str(caught.value)
        assert "module(x, state) and return (y, state)" in str(caught.value)
    for module, told in [
        (cell, "returned one Tensor"),
        (lambda x, state: (cell(x, state), None), "returned (Tensor, NoneType)"),
        (lambda x, state: None, "returned one NoneType"),
    ]:
        # As many units as a pair has parts: a tensor that could be taken apart.
        units = ArtificialUnits(2, module, input_size=INPUTS, output_size=STATE, state_size=STATE)
        with pytest.raises(UsageError) as caught:
            Network(units).run(3 * ms)
        assert told in str(caught.value)
        assert "module(x, state) and return (y, state)" in str(caught.value)
    with pytest.raises(BrianObjectException) as caught:
        Network(_units(step=0.25 * ms)).run(1 * ms)
    assert "250. us" in str(caught.value.__cause__)
    units = _units()
    source = PoissonGroup(1, rates=1 * Hz)
    wrong = Synapses(source, units, on_pre="x_post += 0.5", name="wrong")
    wrong.connect()
    with pytest.raises(BrianObjectException) as caught:
        Network(units, source, wrong).run(1 * ms)
    assert "units.inputs" in str(caught.value.__cause__)
