"""What a SurrogateNeuron offers beyond its timing: rules, groups, weights, warnings, errors."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest
from brian2 import (
    Hz,
    Network,
    NeuronGroup,
    PoissonGroup,
    SpikeGeneratorGroup,
    SpikeMonitor,
    StateMonitor,
    Synapses,
    TimedArray,
    defaultclock,
    ms,
    mV,
    prefs,
    restore,
    run,
    seed,
    start_scope,
    store,
    volt,
)

from helpers.brian import (
    EXCITATORY,
    INPUTS,
    counts_of,
    feed,
    offline,
    random_arrivals,
    random_model,
)
from helpers.stacks import irregular_branches
from surrogate import SurrogateNeuron
from surrogate.brian_bridge import (
    Background,
    Hysteresis,
    Level,
    LocalPeak,
    RisingEdge,
    Stochastic,
    warm_state,
)
from surrogate.errors import UsageError
from surrogate.model.model_file import save
from surrogate.model.philox import philox, uniform
from surrogate.model.spike_rule import KINDS, SpikeRule

STEPS = 80


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    before = prefs.codegen.target, prefs.core.default_float_dtype
    prefs.codegen.target = "numpy"
    defaultclock.dt = 0.1 * ms
    start_scope()
    yield
    prefs.codegen.target, prefs.core.default_float_dtype = before


@pytest.fixture(scope="module")
def recorded():
    return random_arrivals(np.random.default_rng(2), 3 * INPUTS, STEPS, 1500)


def _spikes(cells, recorded) -> np.ndarray:
    """Which neuron spiked in which bin, [N, STEPS]: a spike of bin k bears the time (k + 1) ms."""
    monitor = SpikeMonitor(cells)
    Network(cells, monitor, *feed(cells.inputs, *recorded)).run((STEPS + 1) * ms)
    bins = np.asarray(monitor.t / ms) - 1
    np.testing.assert_allclose(bins, np.round(bins), atol=1e-6)
    spikes = np.zeros((len(cells), STEPS), bool)
    spikes[monitor.i[:], np.round(bins).astype(int)] = True
    assert spikes.sum() == monitor.num_spikes
    return spikes


def _refractory(wanted: np.ndarray, refractory_ms: int) -> np.ndarray:
    return SpikeRule("level", 0.5, refractory_ms, "hand").emit(wanted.astype(float))


def _logits(model, recorded) -> np.ndarray:
    return offline(model, counts_of(*recorded, 3, STEPS, INPUTS))[0]


pytestmark = pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_rule_is_the_default(kind, recorded) -> None:
    model = random_model(refractory_bins=4)
    logits = _logits(model, recorded)
    rule = SpikeRule(
        kind,
        model.spike_rule.logit if kind != "stochastic" else 0.25,
        4,
        "hand",
        low_logit=float(np.quantile(logits, 0.4)) if kind == "hysteresis" else None,
        seed=5 if kind == "stochastic" else None,
    )
    model.card.spike_rule = rule
    expected = rule.emit(logits)
    assert 10 < expected.sum() < expected.size / 4
    cells = SurrogateNeuron(3, model)
    assert cells.spike_delay == rule.delay_bins * ms
    spikes = _spikes(cells, recorded)
    late = rule.delay_bins
    np.testing.assert_array_equal(spikes[:, late:], expected[:, : STEPS - late])
    assert not spikes[:, :late].any()


def test_cards_with_rules_of_several_kinds_need_a_threshold() -> None:
    models = [random_model(seed=seed) for seed in range(2)]
    rule = models[1].spike_rule
    models[1].card.spike_rule = SpikeRule("local_peak", rule.logit, 2, "hand")
    with pytest.raises(UsageError, match="of several kinds"):
        SurrogateNeuron(2, models)
    assert SurrogateNeuron(2, models, threshold=LocalPeak()).spike_delay == 1 * ms


@pytest.mark.parametrize("arch", ["gru", "elm", "elm_silu"])
def test_cells_behind_branches_emit_what_they_do_offline(recorded, arch) -> None:
    model = random_model(arch, branches=irregular_branches(INPUTS), head="linear")
    level = float(np.quantile(_logits(model, recorded), 0.7))
    model.card.spike_rule = SpikeRule("level", level, 2, "hand")
    expected = model.spike_rule.emit(_logits(model, recorded))
    assert expected.sum() > 10
    np.testing.assert_array_equal(_spikes(SurrogateNeuron(3, model), recorded), expected)


def test_other_rules_emit_what_they_say(recorded) -> None:
    model = random_model()
    logits = _logits(model, recorded)
    level, high = model.spike_rule.logit, float(np.quantile(logits, 0.9))
    before = np.concatenate([np.full((3, 2), -np.inf), logits], axis=1)
    older, newer = before[:, :-2], before[:, 1:-1]
    probability = 1 / (1 + np.exp(-logits))
    drawn = np.stack([uniform(9, step, 3) for step in range(1, STEPS + 1)], axis=1)
    wanted = {
        Level(high): logits >= high,
        RisingEdge(): (logits >= level) & (newer < level),
        LocalPeak(): (newer >= level) & (newer > older) & (newer >= logits),
        Stochastic(9): drawn < probability,
        Stochastic(9, 0.5): drawn < 1 / (1 + np.exp(0.5 - logits)),
        Hysteresis(high, level): SpikeRule("hysteresis", high, 1, "hand", level).emit(logits),
        f"p > {probability.mean()} and v > -100*mV": probability > probability.mean(),
    }
    for threshold, expected in wanted.items():
        assert 5 < expected.sum() < expected.size
        for refractory_ms in (1, 3):
            cells = SurrogateNeuron(3, model, threshold=threshold, refractory=refractory_ms * ms)
            np.testing.assert_array_equal(
                _spikes(cells, recorded), _refractory(expected, refractory_ms), str(threshold)
            )


def test_philox_gives_the_published_numbers() -> None:
    # Random123's known answers for philox4x32-10: counter, key and result.
    known = [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, (2**32 - 1,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in known:
        words = philox(tuple(np.array([word], np.uint64) for word in counter), key)
        assert [int(word[0]) for word in words] == expected
    numbers = uniform(1, 2**40, 10_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01


def test_a_quantity_expression_or_nothing_is_a_refractory_period(recorded) -> None:
    model = random_model()
    always = {"threshold": Level(-50.0)}
    every = _spikes(SurrogateNeuron(3, model, refractory=False, **always), recorded)
    assert every.all()
    third = _spikes(SurrogateNeuron(3, model, refractory="3*ms", **always), recorded)
    assert third.sum() == 3 * len(range(0, STEPS, 3))


def test_subgroups_have_their_inputs_channels_and_spikes() -> None:
    model = random_model(logit=-50.0, refractory_bins=1)
    cells = SurrogateNeuron(5, model, name="cells")
    part = cells[2:4]
    source = SpikeGeneratorGroup(1, [0], [0.5] * ms)
    synapses = Synapses(source, part.inputs, on_pre="x_post += 1")
    synapses.connect(i=0, j=part.channel([0, 1], [3, 4], "inhibitory"))
    target = NeuronGroup(2, "y : 1")
    out = Synapses(part[1:], target, on_pre="y_post += 1")
    out.connect()
    monitor = SpikeMonitor(part)
    Network(cells, source, synapses, target, out, monitor).run(3.5 * ms)
    counts = np.zeros((5, 3, INPUTS), np.int64)
    counts[[2, 3], 0, [EXCITATORY + 3, EXCITATORY + 4]] = 1
    np.testing.assert_allclose(cells.v / mV, offline(model, counts)[1][:, -1], atol=1e-3)
    np.testing.assert_allclose(part.v / mV, cells.v[2:4] / mV)
    assert part[1:].channel(0, 0) == 0
    assert part[1:].inputs.start == 3 * INPUTS
    assert monitor.count[:].tolist() == [3, 3]
    assert target.y[:].tolist() == [3, 3]


def test_channels_are_where_the_card_says() -> None:
    cells = SurrogateNeuron(4, random_model())
    assert cells.channel(0, 0) == 0
    assert cells.channel(3, 2, "inhibitory") == 3 * INPUTS + EXCITATORY + 2
    grid = cells.channel(np.arange(4)[:, None], np.arange(EXCITATORY), group="excitatory")
    assert grid.shape == (4, EXCITATORY)
    assert grid[2, 5] == 2 * INPUTS + 5
    none = cells.channel([], [])
    assert (none.shape, none.dtype) == ((0,), np.int64)
    for arguments, named in [
        ((4, 0), "neuron 4"),
        ((0, EXCITATORY, "excitatory"), f"excitatory channel {EXCITATORY}"),
        ((0, INPUTS), f"channel {INPUTS}"),
        ((-1, 0), "neuron -1"),
        ((0, 0, "nmda"), "'nmda': expected excitatory or inhibitory"),
        ((0.5, 0), "0.5"),
    ]:
        with pytest.raises(UsageError, match=named):
            cells.channel(*arguments)


def test_each_neuron_may_have_its_own_weights_and_level(recorded) -> None:
    models = [random_model("gru", seed=seed) for seed in (4, 5, 6)]
    cells = SurrogateNeuron(3, models)
    spikes = _spikes(cells, recorded)
    counts = counts_of(*recorded, 3, STEPS, INPUTS)
    for neuron, model in enumerate(models):
        logits, _ = offline(model, counts[neuron : neuron + 1])
        np.testing.assert_array_equal(spikes[neuron], model.spike_rule.emit(logits)[0])


def test_two_kinds_of_surrogates_live_in_one_network(recorded) -> None:
    model, other = random_model("rnn", seed=1), random_model("lstm", (4, 2), seed=2, head="linear")
    index, ticks = recorded
    first, second_group = SurrogateNeuron(3, model), SurrogateNeuron(3, other)
    monitors = [StateMonitor(group, "v", record=True, dt=1 * ms) for group in (first, second_group)]
    feeding = [*feed(first.inputs, index, ticks), *feed(second_group.inputs, index, ticks)]
    Network(first, second_group, *monitors, *feeding).run((STEPS + 1) * ms)
    counts = counts_of(index, ticks, 3, STEPS, INPUTS)
    for monitor, its in zip(monitors, (model, other), strict=True):
        np.testing.assert_allclose(monitor.v[:, 1:] / mV, offline(its, counts)[1], atol=1e-3)


def test_the_magic_network_finds_all_parts_and_restores_them() -> None:
    model = random_model()
    cells = SurrogateNeuron(2, model)
    source = PoissonGroup(2 * INPUTS, rates=40 * Hz, dt=1 * ms)
    synapses = Synapses(source, cells.inputs, on_pre="x_post += 1")
    synapses.connect(j="i")
    run(12.5 * ms)
    store()
    run(10 * ms)
    after = cells.hidden_state
    restore(restore_random_state=True)
    run(10 * ms)
    np.testing.assert_array_equal(cells.hidden_state, after)


def _driven(model, rising: bool = False) -> tuple[Network, SurrogateNeuron, SpikeMonitor]:
    cells = SurrogateNeuron(
        2,
        model,
        threshold=RisingEdge() if rising else None,
        background=Background(excitatory=200 * Hz, inhibitory=TimedArray([50] * Hz, dt=1 * ms)),
        name="cells",
    )
    spikes = SpikeMonitor(cells, name="spikes")
    return Network(cells, spikes), cells, spikes


def test_a_second_build_restores_what_the_first_stored(tmp_path) -> None:
    model = random_model()
    (first, _, expected), (second, _, spikes) = _driven(model), _driven(model)
    first.run(20.4 * ms)
    first.store(filename=str(tmp_path / "state"))
    first.run(20 * ms)
    second.restore(filename=str(tmp_path / "state"))
    second.run(20 * ms)
    assert expected.num_spikes > 5
    assert spikes.t[:].tolist() == expected.t[:].tolist()
    assert spikes.i[:].tolist() == expected.i[:].tolist()


def test_states_that_were_taken_are_all_set_again() -> None:
    model = random_model()
    network, cells, spikes = _driven(model, rising=True)
    network.run(10.4 * ms)
    taken = network.get_states(read_only_variables=False)
    assert set(taken["cells"]) >= {"v", "p", "lost", "hidden_state", "lastspike"}
    network.store()
    network.run(10 * ms)
    expected, after = spikes.t[:].tolist(), network.get_states(read_only_variables=False)["cells"]
    network.restore()
    cells.hidden_state = np.ones_like(cells.hidden_state)
    cells.variables["v"].set_value(0)
    for name in ("_logit", "_logit_1"):
        cells.variables[name].set_value(5.0)
    cells.variables["lost"].set_value(9)
    network.set_states({"cells": taken["cells"]})
    for name, values in network.get_states(read_only_variables=False)["cells"].items():
        np.testing.assert_array_equal(values, taken["cells"][name], name)
    network.run(10 * ms)
    assert spikes.t[:].tolist() == expected
    for name, values in network.get_states(read_only_variables=False)["cells"].items():
        np.testing.assert_array_equal(values, after[name], name)
    with pytest.raises(UsageError, match="hidden state"):
        cells.get_states(units=False, format="pandas")


def test_levels_are_set_for_each_neuron_between_runs(recorded) -> None:
    model = random_model()
    logits = _logits(model, recorded)
    levels = np.quantile(logits, [0.5, 0.8, 0.95], axis=1)[[0, 1, 2], [0, 1, 2]]
    for changed in (levels, levels[[2, 0, 1]]):
        cells = SurrogateNeuron(3, model, refractory=1 * ms)
        cells.level = changed
        expected = logits >= changed[:, None]
        np.testing.assert_array_equal(_spikes(cells, recorded), expected)
    cells = SurrogateNeuron(3, model, refractory=1 * ms)
    cells[1:].level = levels[1:]
    cells.level[0] = -100.0
    np.testing.assert_array_equal(cells.level[:], [-100.0, *levels[1:]])
    with pytest.raises(UsageError, match=r"\.level = -2\.0"):
        cells.threshold = Level(-100.0)
    with pytest.raises(UsageError, match="no level"):
        SurrogateNeuron(1, model, threshold="p > 0.5").level = 1.0


def test_a_subgroup_has_the_hidden_state_of_its_neurons() -> None:
    cells = SurrogateNeuron(4, random_model())
    states = np.arange(80.0).reshape(4, 20)
    cells.hidden_state = states
    part = cells[1:3]
    np.testing.assert_array_equal(part.hidden_state, states[1:3])
    part.hidden_state = np.full(20, -1.0)
    states[1:3] = -1
    np.testing.assert_array_equal(cells.hidden_state, states)
    with pytest.raises(UsageError, match=r"\(2, 20\) or \(20,\)"):
        part.hidden_state = states


@pytest.mark.slow
def test_a_stored_network_goes_on_in_a_new_process(tmp_path) -> None:
    model = random_model()
    save(tmp_path / "model.safetensors", model.stack, model.card)
    script = tmp_path / "network.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np
        from brian2 import *
        from surrogate import SurrogateNeuron

        prefs.codegen.target = "numpy"
        folder, duration = sys.argv[1], int(sys.argv[2])
        cells = SurrogateNeuron(2, f"{folder}/model.safetensors", name="cells")
        number = np.arange(400)
        source = SpikeGeneratorGroup(40, number % 40, number * 0.1 * ms, name="source")
        into = Synapses(source, cells.inputs, on_pre="x_post += 1", name="into")
        into.connect(j="i")
        into.delay = "(1 + 7 * j / 40) * ms"
        back = Synapses(cells, cells.inputs, on_pre="x_post += 1", delay=3.7 * ms, name="back")
        back.connect(i=[0, 1], j=cells.channel([1, 0], [2, 3]))
        spikes = SpikeMonitor(cells, name="spikes")
        network = Network(cells, source, into, back, spikes)
        if len(sys.argv) > 3:
            network.restore(filename=f"{folder}/state")
        network.run(duration * 0.1 * ms)
        if duration == 173:
            network.store(filename=f"{folder}/state")
        print(spikes.i[:].tolist(), np.round(spikes.t / ms, 3).tolist())
        print(cells.hidden_state.tolist(), cells.lost[:].tolist())
        """)
    )

    def printed(*arguments: str) -> str:
        command = [sys.executable, str(script), str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    printed("173")
    assert printed("227", "restored") == printed("400")


def test_a_given_or_warm_state_is_where_the_model_starts() -> None:
    model = random_model(input_rate_hz={"excitatory": [100, 200], "inhibitory": [50, 100]})
    cells = SurrogateNeuron(3, model)
    warm = warm_state(model, 3, 40 * ms, seed=1)
    assert np.abs(warm - warm_state(model, 3, 41 * ms, seed=1)).max() > 1e-3
    assert len(np.unique(warm, axis=0)) == 3
    cells.hidden_state = warm
    Network(cells).run(1.1 * ms)
    assert np.abs(cells.hidden_state - warm).max() > 1e-3
    cells.hidden_state = warm[1]
    np.testing.assert_array_equal(cells.hidden_state, np.tile(warm[1], (3, 1)))
    with pytest.raises(UsageError, match=r"\(4,\)"):
        cells.hidden_state = np.zeros(4)
    with pytest.raises(UsageError, match="excitatory"):
        warm_state(random_model(), 3)


@pytest.mark.parametrize("rate", [2, 50, 200])
def test_input_unlike_the_trainings_is_warned_of(rate, recwarn) -> None:
    model = random_model(input_rate_hz={"excitatory": [20, 100], "inhibitory": [20, 100]})
    cells = SurrogateNeuron(6, model, name="cells")
    source = PoissonGroup(6 * INPUTS, rates=rate * Hz, dt=1 * ms)
    synapses = Synapses(source, cells.inputs, on_pre="x_post += 1")
    synapses.connect(j="i")
    network = Network(cells, source, synapses)
    seed(rate)
    network.run(300 * ms)
    network.run(300 * ms)
    messages = [str(one.message) for one in recwarn if "synapses received" in str(one.message)]
    assert len(messages) == (0 if rate == 50 else 2)  # one for each kind, once
    recwarn.clear()
    network.store()
    network.restore()
    network.run(1 * ms)
    again = [one for one in recwarn if "synapses received" in str(one.message)]
    assert len(again) == len(messages)  # a run after restore() is another one
    assert all("'cells'" in message and "20 to 100 Hz" in message for message in messages)
    counted = rate * EXCITATORY * 0.6  # one neuron's synapses of a kind, for 600 ms
    for measured in cells.input_rates.values():
        assert abs(measured / Hz - rate) < 5 * rate / np.sqrt(counted)


def test_brian2s_default_precision_does_not_change_spikes(recorded) -> None:
    model = random_model()
    expected = model.spike_rule.emit(_logits(model, recorded))
    prefs.core.default_float_dtype = np.float32
    cells = SurrogateNeuron(3, model)
    np.testing.assert_array_equal(_spikes(cells, recorded), expected)
    assert cells.variables["v"].dtype == np.float32


def test_units_and_further_variables_are_brian2s(recorded) -> None:
    cells = SurrogateNeuron(
        3, random_model(), equations="depth : meter\nload = v / depth : volt/meter"
    )
    cells.depth = "i * 10 * um + 1 * um"
    assert cells.v.dim is volt.dim
    assert cells.load[:].shape == (3,)
    assert set(cells.get_states()) >= {"v", "p", "lost", "depth"}


def test_the_name_of_a_bundled_model_serves_as_a_model() -> None:
    cells = SurrogateNeuron(2, "l5pc-small")
    Network(cells).run(3 * ms)
    assert cells.population.spec.arch == "elm"
