"""Evaluation: what is run, which bins count, and what the report says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import surrogate
from surrogate import RecurrentStack, datasets
from surrogate.channels import Channels
from surrogate.cli.main import cli, main
from surrogate.errors import DataError, UsageError
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.evaluate import evaluate, evaluate_outputs
from surrogate.evaluation.protocols import PROTOCOLS, Outputs, run_protocol
from surrogate.evaluation.scores import SCORES
from surrogate.kernels import SpikeEvents
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model, save
from surrogate.model.prediction import predict_dataset, predict_events
from surrogate.model.spike_rule import SpikeRule, match_output_rate
from surrogate.plots.evaluation import plot_roc, plot_traces, roc_in_terminal
from surrogate.training.epoch_scores import epoch_scores
from surrogate.training.windows import Batch, plan_validation_windows, read_batch

CHANNELS = Channels.of(excitatory=10, inhibitory=10)


@pytest.fixture
def stack() -> RecurrentStack:
    torch.manual_seed(2)
    return RecurrentStack(
        "lstm", (5, 2), input_size=20, head="linear", voltage_scale=10.0, voltage_offset=-67.0
    )


@pytest.fixture
def model_path(tmp_path: Path, stack: RecurrentStack) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, stack, ModelCard(stack.spec, CHANNELS, 1.0))
    return path


class RandomTrials:
    """Stands in for a data set: trials long enough for the published protocol."""

    def __init__(self, n_steps: int = 1300, n_trials: int = 4) -> None:
        rng = np.random.default_rng(4)
        self.path, self.digest = Path("random.h5"), "0" * 64
        self.n_inputs, self.n_steps, self.n_trials = 20, n_steps, n_trials
        self.dt_ms, self.channels = 1.0, CHANNELS
        self.header = datasets.Header(n_steps, CHANNELS, 1.0)
        self.dense = rng.random((n_trials, n_steps, 20)) < 0.05
        self.potential = rng.normal(-65, 5, (n_trials, n_steps)).astype(np.float32)
        self.times = [np.sort(rng.choice(n_steps, 10, False)) + 0.75 for _ in range(n_trials)]
        self.times[1] = np.arange(25) * 40 + 600.75

    def bins(self, duration_ms: float) -> int:
        return round(duration_ms)

    def trial_indices(self, split: str) -> np.ndarray:
        return np.arange(self.n_trials)

    def events(self, trials, starts, steps) -> SpikeEvents:
        rows = [
            self.dense[i, start : start + steps] for i, start in zip(trials, starts, strict=True)
        ]
        return SpikeEvents.from_dense(torch.from_numpy(np.stack(rows)))

    def voltage(self, trials, starts, steps) -> np.ndarray:
        pairs = zip(trials, starts, strict=True)
        return np.stack([self.potential[i, start : start + steps] for i, start in pairs])

    def spike_times(self, trial: int, labels: str = "exact") -> np.ndarray:
        times = self.times[trial]
        return times if labels == "exact" else times.astype(np.float16).astype(np.float64)

    def spikes(self, trials, starts, steps, labels="exact") -> np.ndarray:
        spikes = np.zeros((len(trials), self.n_steps), np.uint8)
        for row, trial in zip(spikes, trials, strict=True):
            bins = (self.spike_times(trial, labels) - 0.5).astype(int)
            row[bins[bins < self.n_steps]] = 1
        return np.stack([s[start : start + steps] for s, start in zip(spikes, starts, strict=True)])


def _whole(stack: RecurrentStack, dense: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return stack(SpikeEvents.from_dense(torch.from_numpy(dense)))[0].numpy()


@pytest.mark.parametrize("chunk_bins", [1, 7, 400, 1000])
def test_predicting_in_chunks_equals_the_whole(toy_data, stack, chunk_bins) -> None:
    with datasets.open(toy_data) as data:
        trials = np.array([3, 0, 7])
        events = data.events(trials, np.zeros(3, int), 400)
        logits, voltage = predict_events(stack, events, chunk_bins=chunk_bins)
        with torch.no_grad():
            expected = stack(events)
        np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(voltage, expected[1].numpy(), atol=1e-4)
        assert logits.dtype == voltage.dtype == np.float32
        for got, want in zip(
            predict_dataset(stack, data, trials, batch=2, chunk_bins=chunk_bins),
            expected,
            strict=False,
        ):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


def test_predict_events_continues_from_a_state(toy_data, stack) -> None:
    with datasets.open(toy_data) as data:
        whole = data.events([1], [0], 300)
        with torch.no_grad():
            _, _, state = stack(whole.slice_steps(0, 120))
        logits, _ = predict_events(stack, whole.slice_steps(120, 300), state)
        np.testing.assert_allclose(logits, predict_events(stack, whole)[0][:, 120:], atol=1e-6)


def test_progress_counts_every_bin(toy_data, stack) -> None:
    seen: list[tuple[int, int]] = []
    with datasets.open(toy_data) as data:
        run_protocol(stack, data, [0, 1, 2], progress=lambda *done: seen.append(done))
    assert seen[-1] == (1200, 1200)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(seen))


def test_a_model_of_other_input_size_is_a_usage_error(toy_data) -> None:
    with datasets.open(toy_data) as data:
        with pytest.raises(UsageError, match="20 input channels, the model takes 1278"):
            predict_dataset(RecurrentStack("rnn", (2,), 1278), data, [0])
        with pytest.raises(UsageError, match=r"channels 0\.\.5"):
            predict_events(RecurrentStack("rnn", (2,), input_size=6), data.events([0], [0], 50))


def test_protocol_windows() -> None:
    long = RandomTrials(6000, 2)
    assert PROTOCOLS["stateful"].windows(long) == [(0, 0, 6000)]
    assert PROTOCOLS["blog"].windows(RandomTrials(2500, 2)) == [
        (0, 0, 1000),
        (1000, 1000, 2000),
        (2000, 2000, 2500),
    ]
    published = PROTOCOLS["published"].windows(long)
    assert published[:2] == [(350, 500, 850), (700, 850, 1200)]
    assert published[-1] == (5600, 5750, 6000)
    scored = [bin for _, first, stop in published for bin in range(first, stop)]
    assert scored == list(range(500, 6000))


def test_blog_protocol_starts_each_window_from_zero(stack) -> None:
    data = RandomTrials()
    outputs = run_protocol(stack, data, [0, 2], "blog")
    for start, stop in ((0, 1000), (1000, 1300)):
        expected = _whole(stack, data.dense[[0, 2], start:stop])
        np.testing.assert_allclose(outputs.logits[:, start:stop], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs.target, data.potential[[0, 2]])


def test_published_protocol_burns_in_and_drops_busy_trials(stack) -> None:
    data = RandomTrials()
    outputs = run_protocol(stack, data, range(4), "published")
    assert outputs.trials.tolist() == [0, 2, 3]
    assert (outputs.dropped, outputs.first_bin, outputs.labels) == (1, 500, "legacy")
    assert outputs.logits.shape == outputs.spikes.shape == (3, 800)
    expected = _whole(stack, data.dense[[0, 2, 3], 700:1200])[:, 150:]
    np.testing.assert_allclose(outputs.logits[:, 350:700], expected, atol=1e-6)
    np.testing.assert_array_equal(
        outputs.spikes, data.spikes([0, 2, 3], [500] * 3, 800, labels="legacy")
    )
    exact = run_protocol(stack, data, [0], "published", labels="exact")
    np.testing.assert_array_equal(exact.spikes, data.spikes([0], [500], 800))


def test_published_voltage_is_rescaled(stack) -> None:
    data = RandomTrials()
    model = Model(stack, ModelCard(stack.spec, CHANNELS, 1.0))
    result = evaluate(model, data, split="all", protocol="published", bootstrap=0)
    ours, theirs = (
        np.minimum(voltage.astype(float), -55)
        for voltage in (result.outputs.voltage, result.outputs.target)
    )
    rescaled = (ours - ours.mean()) / ours.std() * theirs.std() + theirs.mean()
    error = np.sqrt(np.square(rescaled - theirs).mean())
    assert result["voltage_rmse_mv"] == pytest.approx(error)
    as_predicted = np.sqrt(np.square(ours - theirs).mean())
    assert as_predicted != pytest.approx(error, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "blogg"}, "unknown protocol 'blogg'"),
        ({"protocol": "published"}, "leaves out the first 500 ms"),
    ],
)
def test_impossible_protocols_are_usage_errors(toy_data, stack, arguments, message) -> None:
    with datasets.open(toy_data) as data, pytest.raises(UsageError, match=message):
        run_protocol(stack, data, [0], **arguments)


def test_published_protocol_without_a_quiet_trial_is_a_usage_error(stack) -> None:
    with pytest.raises(UsageError, match="more than 24 spikes"):
        run_protocol(stack, RandomTrials(), [1], "published")


def _whole_trials(data, trials) -> Batch:
    plan = plan_validation_windows(np.asarray(trials), data.n_steps, data.n_steps, len(trials))
    return read_batch(data, plan, 0, len(trials), "exact")


@pytest.mark.parametrize("burn_in_ms", [0, 150])
def test_an_epochs_scores_are_of_windows_after_their_burn_in(toy_data, stack, burn_in_ms) -> None:
    with datasets.open(toy_data) as data:
        trials = data.trial_indices("valid")
        logits, voltage = predict_dataset(stack, data, trials)
        scores = epoch_scores(logits, voltage, _whole_trials(data, trials), burn_in_ms)
        starts = np.full(len(trials), burn_in_ms)
        steps = 400 - burn_in_ms
        expected = Comparison(
            logits[:, burn_in_ms:],
            voltage[:, burn_in_ms:],
            data.spikes(trials, starts, steps),
            data.voltage(trials, starts, steps),
        )
    assert scores["logit_gap"] > 0
    for name in ("roc_auc", "average_precision", "nll", "voltage_rmse_mv"):
        assert scores[name] == SCORES[name].measure(expected)


def test_outputs_that_are_not_finite_have_no_scores(toy_data, stack) -> None:
    with torch.no_grad():
        stack.head.bias[0] = torch.nan
    with datasets.open(toy_data) as data:
        outputs = predict_dataset(stack, data, [0])
        assert set(epoch_scores(*outputs, _whole_trials(data, [0]), 0).values()) == {None}
        with pytest.raises(DataError, match="not finite"):
            evaluate(Model(stack, ModelCard(stack.spec, CHANNELS, 1.0)), data)


def test_report_has_every_promised_key_with_its_interval(toy_data, model_path) -> None:
    model = surrogate.load(model_path)
    with datasets.open(toy_data) as data:
        report = evaluate(model, data, split="all", bootstrap=50)
    for name in (name for name, score in SCORES.items() if not score.at):
        low, high = report[f"{name}_interval"]
        assert low <= report[name] <= high, name
    assert report["tpr_at_fpr"].keys() == report["tpr_at_fpr_interval"].keys() == {"0.0025", "0.01"}
    assert report["thresholds"].keys() == {"youden", "gmean", "rate"}
    assert report["parameters"] == sum(p.numel() for p in model.stack.parameters())
    assert report["state_bytes"] == 2 * 5 * 4
    assert report["model_file_bytes"] == model_path.stat().st_size
    assert (report["n_trials"], report["n_bins"]) == (12, 4800)
    assert report["data"]["name"] == "toy data.h5"
    assert report["bootstrap"] == {"resamples": 50, "without_spikes": 0, "seed": 0}
    assert report["spike_rule"] is None
    json.dumps(report, allow_nan=False)


def test_the_seed_decides_the_intervals(toy_data, model_path) -> None:
    model = surrogate.load(model_path)
    with datasets.open(toy_data) as data:
        one, two, other = (
            evaluate(model, data, split="train", bootstrap=30, seed=seed)["roc_auc_interval"]
            for seed in (1, 1, 2)
        )
    assert one == two != other


def test_one_trial_has_no_intervals(toy_data, model_path) -> None:
    model = surrogate.load(model_path)
    with datasets.open(toy_data) as data:
        view = SimpleNamespace(**{name: getattr(data, name) for name in ("path", "digest")})
        outputs = run_protocol(model.stack, data, [0])
        report = evaluate_outputs(model, view, "test", outputs)
    assert report["roc_auc"] is not None
    assert report["roc_auc_interval"] is report["tpr_at_fpr_interval"] is None


def test_trials_without_spikes_are_reported_not_raised(toy_data, model_path) -> None:
    model = surrogate.load(model_path)
    model.card.spike_rule = SpikeRule("level", 9.0, 6, "hand")
    with datasets.open(toy_data) as data:
        outputs = run_protocol(model.stack, data, [0, 1])
        outputs.spikes[:] = 0
        report = evaluate_outputs(model, data, "test", outputs, bootstrap=20)
    assert report["roc_auc"] is report["roc_auc_interval"] is report["thresholds"] is None
    assert report["spread"] is None
    assert "no output spike" in report["note"]
    assert report["bootstrap"]["without_spikes"] == 20
    assert report["voltage_rmse_mv"] > 0
    assert report["spike_rule"]["emitted_spikes"] == 0
    assert report["event_f1"] is report["event_f1_interval"] is None


def test_emission_is_counted_against_the_neuron(toy_data, model_path) -> None:
    model = surrogate.load(model_path)
    with datasets.open(toy_data) as data:
        outputs = run_protocol(model.stack, data, data.trial_indices("all"))
        outputs.logits[:] = np.where(outputs.spikes, 5.0, -5.0)
        model.card.spike_rule = match_output_rate(outputs.logits, outputs.spikes, 1.0, "test")
        report = evaluate_outputs(model, data, "all", outputs, bootstrap=20)
    rule = report["spike_rule"]
    assert rule["emitted_spikes"] == outputs.spikes.sum()
    assert rule["emitted_rate_hz"] == rule["neuron_rate_hz"]
    assert rule["emitted_rate_hz"] == pytest.approx(outputs.spikes.sum() / 4.8)
    windows = ("0", "1", "2", "5")
    for name in ("event_f1", "event_precision", "event_recall"):
        assert report[name] == dict.fromkeys(windows, 1.0)
        assert report[f"{name}_interval"] == {window: [1.0, 1.0] for window in windows}


@pytest.fixture
def run(model_path: Path, toy_data: Path) -> Callable[..., object]:
    def evaluate_command(*options: str) -> object:
        arguments = ["evaluate", str(model_path), "--data", str(toy_data), *options]
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return evaluate_command


def test_command_prints_one_json_object(run) -> None:
    result = run("--split", "all", "--bootstrap", "20", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["split"] == "all"
    assert report["n_trials"] == 12
    assert 0 <= report["roc_auc"] <= 1


def test_command_prints_a_table_and_the_roc_curve(run) -> None:
    text = run("--split", "train", "--bootstrap", "20").stdout
    assert "ROC AUC" in text
    assert "youden" in text
    assert "true positive rate" in text


def test_command_writes_plots_only_where_asked(run, tmp_path) -> None:
    run("--split", "all", "--bootstrap", "0")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    result = run("--split", "all", "--bootstrap", "0", "--plots", str(tmp_path / "fig"), "--json")
    names = {"roc.png", "roc.svg", "traces.png", "traces.svg"}
    assert {path.name for path in (tmp_path / "fig").iterdir()} == names
    assert {Path(path).name for path in json.loads(result.stdout)["plots"]} == names


def test_command_writes_the_rule_chosen_on_validation_trials(run, model_path, toy_data) -> None:
    before = surrogate.load(model_path)
    report = json.loads(run("--split", "valid", "--write-rule", "--json").stdout)
    after = surrogate.load(model_path)
    assert after.spike_rule.logit == report["spike_rule"]["logit"]
    assert "split valid of toy data.h5" in after.spike_rule.chosen_by
    assert report["spike_rule"]["emitted_spikes"] == pytest.approx(report["n_spikes"], abs=2)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name])


@pytest.mark.parametrize("options", [["--split", "test"], ["--split", "all"]])
def test_no_rule_is_chosen_on_test_trials(model_path, toy_data, options, capsys) -> None:
    before = model_path.read_bytes()
    code = main(["evaluate", str(model_path), "--data", str(toy_data), "--write-rule", *options])
    assert code == 2
    assert "kept from the test" in capsys.readouterr().err
    assert model_path.read_bytes() == before


def test_no_rule_is_chosen_without_a_spike_or_a_file(toy_data, model_path, stack) -> None:
    before = model_path.read_bytes()
    with datasets.open(toy_data) as data:
        data.spikes = lambda trials, starts, steps, labels: np.zeros((len(trials), steps), np.uint8)
        with pytest.raises(UsageError, match="no output spike in split 'valid'"):
            evaluate(model_path, data, split="valid", write_rule=True)
        alone = Model(stack, ModelCard(stack.spec, CHANNELS, 1.0))
        with pytest.raises(UsageError, match="no file to write"):
            evaluate(alone, data, split="valid", write_rule=True)
    assert model_path.read_bytes() == before


def test_evaluating_in_python_is_what_the_command_does(run, model_path, toy_data) -> None:
    result = surrogate.evaluate(model_path, toy_data, split="valid", bootstrap=20)
    options = ("--split", "valid", "--bootstrap", "20")
    printed = json.loads(run(*options, "--json").stdout)
    shown = run(*options).stdout
    assert {**result, "seconds": 0} == {**printed, "seconds": 0}
    # All but the line that says how long it took.
    assert [line for line in str(result).splitlines() if line not in shown.splitlines()] in (
        [],
        str(result).splitlines()[1:2],
    )
    assert result.outputs.logits.shape == (result["n_trials"], 400)
    with datasets.open(toy_data) as data:
        again = surrogate.evaluate(result.model, data, split="valid", bootstrap=20)
        assert data.voltage([0], [0], 1).size  # still open
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_wrong_input_size_is_one_line_on_the_command_line(tmp_path, toy_data, capsys) -> None:
    stack = RecurrentStack("rnn", (2,), 1278)
    save(tmp_path / "m.h5", stack, ModelCard(stack.spec, Channels.of(input=1278), 1.0))
    assert main(["evaluate", str(tmp_path / "m.h5"), "--data", str(toy_data)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(error) == 1
    assert "channels of 10 excitatory, 10 inhibitory, the model has 1278 input" in error[0]


def _outputs(logits: np.ndarray, spikes: np.ndarray) -> Outputs:
    return Outputs(
        logits,
        voltage=logits - 70.0,
        spikes=spikes,
        target=logits - 71.0,
        trials=np.arange(len(logits)),
        dropped=0,
        first_bin=0,
        protocol="stateful",
        labels="exact",
        seconds=0.0,
    )


def test_terminal_curve_of_a_perfect_model_and_of_chance() -> None:
    spikes = np.zeros((2, 500), np.uint8)
    spikes[:, ::50] = 1
    perfect = roc_in_terminal(_outputs(spikes.astype(float), spikes), 20, 5).splitlines()
    assert len(perfect) == 9
    assert {len(line) for line in perfect[1:6]} == {25}
    # The top row of dots is filled from left to right, the left column from bottom to top.
    assert all(ord(cell) & 0b1001 == 0b1001 for cell in perfect[1][5:])
    assert all(ord(line[5]) & 0b1000111 == 0b1000111 for line in perfect[2:6])
    chance = roc_in_terminal(_outputs(np.zeros(spikes.shape), spikes), 20, 5).splitlines()
    assert chance[1][5:8] == "\u2800" * 3
    assert "no ROC curve" in roc_in_terminal(_outputs(np.zeros((1, 5)), np.zeros((1, 5), int)))


def test_plots_of_constant_logits_and_of_silence_are_drawn(tmp_path) -> None:
    spikes = np.zeros((2, 100), np.uint8)
    spikes[0, 50] = 1
    flat = np.zeros(spikes.shape, np.float32)
    plot_roc(tmp_path / "roc.svg", _outputs(flat, spikes))
    plot_traces(tmp_path / "traces.png", _outputs(flat, spikes * 0))
    assert (tmp_path / "roc.svg").read_text().startswith("<?xml")
    assert (tmp_path / "traces.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_unknown_kind_is_a_usage_error(tmp_path) -> None:
    spikes = np.eye(3, dtype=np.uint8)
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        plot_roc(tmp_path / "roc.gif", _outputs(spikes.astype(float), spikes))
    assert list(tmp_path.iterdir()) == []
