"""An architecture, a provider and a score from outside the package, an object each, work."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from brian2 import Network, StateMonitor, device, ms, set_device
from torch import Tensor

import surrogate
from helpers.brian import INPUTS, counts_of, feed, offline, random_arrivals, random_model
from helpers.grid import surrogate_command
from helpers.report import Page
from surrogate import SurrogateNeuron
from surrogate.cli.main import main
from surrogate.errors import UsageError
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.scores import SCORES, Score
from surrogate.kernels import (
    ARCHITECTURES,
    PROVIDERS,
    Architecture,
    Provider,
    SpikeEvents,
    StackSpec,
    Stepper,
    default_provider,
    run_models,
    run_stack,
)
from surrogate.model.model_file import save


def _leak(from_input: Tensor, from_hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A leaky integrator with a slow trace of its output: one gate, two parts of the state."""
    h, trace = state
    h = 0.8 * h + 0.2 * torch.tanh(from_input + from_hidden + trace)
    return h, 0.9 * trace + 0.1 * h


@pytest.fixture(autouse=True)
def _leaky(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = Architecture("leaky", gates=1, step=_leak, state_parts=("h", "trace"))
    monkeypatch.setitem(ARCHITECTURES, "leaky", architecture)


def _run(*arguments: object) -> dict[str, object]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue().splitlines()[-1])


def test_it_trains_and_is_saved_loaded_and_evaluated(toy_data: Path, tmp_path: Path) -> None:
    small = ["windows_per_epoch=8", "batch_size=4", "window_ms=100", "burn_in_ms=20"]
    settings = [part for each in small for part in ("--set", each)]
    where = ("--data", toy_data, "--out", tmp_path / "run")
    chosen = ("--arch", "leaky", "--hidden", "4-2", "--epochs", "1", "--json")
    result = _run("train", *where, *chosen, *settings)
    model = surrogate.load(tmp_path / "run" / "model.safetensors")
    assert model.card.spec.architecture.step is _leak
    assert model.stack.spec.state_size == 2 * 4
    # Biases on the hidden state begin at zero: what differs was learnt.
    assert model.state_dict()["layers.0.bias_hh_l0"].abs().min() > 0
    scores = _run("evaluate", result["model"], "--data", toy_data, "--split", "valid", "--json")
    assert scores["parameters"] == model.card.spec.parameter_count
    assert scores["roc_auc"] == result["validation"]["roc_auc"]


def test_the_reference_computes_it_where_others_do_not() -> None:
    spec = StackSpec("leaky", (3, 2), input_size=5)
    weights = {name: torch.rand(shape) for name, shape in spec.parameter_shapes().items()}
    events = SpikeEvents.from_dense(torch.rand(2, 6, 5) < 0.3)
    outputs, final = run_stack(spec, weights, events)
    assert default_provider(spec=spec) == "reference"
    for provider, kernels in {
        "torch": "torch provider has",
        "cpu": r"C\+\+ kernels",
        "triton": "Triton",
    }.items():
        with pytest.raises(ValueError, match=kernels):
            run_stack(spec, weights, events, provider=provider)
    stepper = Stepper(spec, weights, 2)
    for t in range(6):
        bin_events = events.slice_steps(t, t + 1)
        stepper.step(bin_events.channel.numpy(), bin_events.row_ptr.numpy())
        np.testing.assert_allclose(stepper.outputs, outputs[:, t], rtol=1e-6)
    np.testing.assert_allclose(stepper.state, final, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")
def test_it_steps_in_a_brian2_network() -> None:
    model = random_model("leaky")
    recorded = random_arrivals(np.random.default_rng(1), 2 * INPUTS, 40, 300)
    cells = SurrogateNeuron(2, model, precision="float64")
    monitor = StateMonitor(cells, "v", record=True, when="end")
    Network(cells, monitor, *feed(cells.inputs, *recorded)).run(41 * ms)
    _, voltage = offline(model, counts_of(*recorded, 2, 40, INPUTS))
    assert voltage.std() > 0.1
    np.testing.assert_allclose(np.asarray(monitor.v)[:, 10::10] * 1e3, voltage, atol=1e-9)


def test_a_cpp_program_without_its_kernels_is_refused(tmp_path: Path) -> None:
    set_device("cpp_standalone", directory=str(tmp_path), build_on_run=False)
    try:
        with pytest.raises(UsageError, match=r"leaky has no C\+\+ kernels, which C\+\+ standalone"):
            SurrogateNeuron(2, random_model("leaky"))
    finally:
        device.reinit()
        set_device("runtime")


class _Counting(Provider):
    """The reference under another name, that tells how often it ran."""

    name = "counting"
    steps = shares_launches = True
    runs = models = steppers = 0

    def unavailable(self, spec, device, dtype) -> str | None:
        return None if dtype == torch.float32 else f"not {dtype}"

    def run(self, *arguments) -> tuple[Tensor, Tensor]:
        self.runs += 1
        return PROVIDERS["reference"].run(*arguments)

    def run_models(self, *arguments) -> tuple[Tensor, Tensor]:
        self.models += 1
        return super().run_models(*arguments)

    def stepper(self, *arguments):
        self.steppers += 1
        return PROVIDERS["reference"].stepper(*arguments)


@pytest.fixture
def counting() -> Iterator[_Counting]:
    """A provider from outside, the first that is asked."""
    provider, others = _Counting(), dict(PROVIDERS)
    PROVIDERS.clear()
    PROVIDERS.update({"counting": provider, **others})
    yield provider
    PROVIDERS.clear()  # the order is what decides: give it back as it was
    PROVIDERS.update(others)


@pytest.mark.filterwarnings("ignore:.*synapses received:RuntimeWarning")
def test_a_new_provider_is_chosen_and_trains_and_steps(counting, toy_data, tmp_path) -> None:
    assert default_provider() == "counting"
    assert default_provider(dtype=torch.float64) != "counting"
    small = ["windows_per_epoch=8", "batch_size=4", "window_ms=100", "burn_in_ms=20"]
    settings = [part for each in small for part in ("--set", each)]
    where = ("--data", toy_data, "--out", tmp_path / "run")
    _run("train", *where, "--arch", "rnn", "--hidden", "3-2", "--epochs", "1", "--json", *settings)
    assert counting.runs > 2
    spec = StackSpec("rnn", (3, 2), input_size=5)
    weights = {name: torch.rand(2, *shape) for name, shape in spec.parameter_shapes().items()}
    events = SpikeEvents.from_dense(torch.ones(1, 2, 5))
    run_models(spec, weights, events, torch.zeros(2, 1, spec.state_size))
    assert counting.models == 1
    cells = SurrogateNeuron(2, random_model("rnn"))
    Network(cells).run(2 * ms)
    assert counting.steppers == 1


def _highest(compared: Comparison) -> float:
    return float(compared.voltage.max() - compared.target.max())


def _late(compared: Comparison, after_ms: float) -> float | None:
    """Share of the rule's spikes that lie late in the trial; None if it emits none."""
    assert compared.emitted is not None
    late = compared.emitted[:, round(after_ms / compared.dt_ms) :].sum()
    return float(late / compared.emitted.sum()) if compared.emitted.any() else None


def test_a_new_score_is_in_the_json_the_table_and_the_report(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its interval, by a function alone; a score by a parameter is one for each value."""
    for score in (
        Score("peak_mv", "Highest voltage", _highest, unit="mV", digits=2),
        Score("late", "Share after {:g} ms", _late, at=(100, 300.5)),
    ):
        monkeypatch.setitem(SCORES, score.name, score)
    model = random_model("gru", inputs=20)
    save(tmp_path / "model.safetensors", model.stack, model.card)
    command = (tmp_path / "model.safetensors", "--data", toy_data, "--split", "train")
    evaluate = ("evaluate", *command, "--bootstrap", 200)
    result = surrogate_command(*evaluate, "--json").json

    # The interval by hand: the highest of a resample is the highest of its trials' own.
    outputs = surrogate.evaluate(tmp_path / "model.safetensors", toy_data, split="train").outputs
    n_trials = len(outputs.trials)
    weights = np.random.default_rng(0).multinomial(n_trials, [1 / n_trials] * n_trials, 200)
    ours, theirs = (
        np.where(weights > 0, voltage.max(axis=1), -np.inf).max(axis=1)
        for voltage in (outputs.voltage, outputs.target)
    )
    low, high = np.quantile(ours - theirs, [0.025, 0.975])
    assert low < high
    assert result["peak_mv"] == _highest(outputs)
    assert result["peak_mv_interval"] == pytest.approx([low, high])
    assert result["late"].keys() == result["late_interval"].keys() == {"100", "300.5"}
    assert result["late"]["100"] > result["late"]["300.5"] > 0
    for after, (least, most) in result["late_interval"].items():
        assert least < result["late"][after] < most

    table = surrogate_command(*evaluate).stdout.splitlines()
    line = next(line for line in table if line.startswith("Highest voltage (mV)"))
    assert line.split()[3:] == [f"{result['peak_mv']:.2f}", f"[{low:.2f},", f"{high:.2f}]"]
    assert any(line.startswith("Share after 300.5 ms") for line in table)

    report = surrogate_command("report", *command, "--out", tmp_path / "r.html", "--json").json
    assert report["scores"]["peak_mv"] == result["peak_mv"]
    low, high = report["scores"]["peak_mv_interval"]  # of 1000 resamples
    rows = {cells["Score"]: cells for cells in Page(tmp_path / "r.html").rows("score-table")}
    assert rows["Highest voltage (mV)"]["Value"] == f"{result['peak_mv']:.2f}"
    assert rows["Highest voltage (mV)"]["95 %"] == f"[{low:.2f}, {high:.2f}]"
    assert rows["Share after 100 ms"]["Value"] == f"{result['late']['100']:.4f}"
    assert "Highest voltage (mV)" in (tmp_path / "r.csv").read_text()
