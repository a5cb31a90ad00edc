"""What an evaluation reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import surrogate
from surrogate import datasets
from surrogate.channels import Channels
from surrogate.errors import DataError, UsageError
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.evaluate import evaluate, evaluate_outputs
from surrogate.evaluation.protocols import run_protocol
from surrogate.evaluation.scores import SCORES
from surrogate.evaluation.spike_scores import SPIKE_SCORES
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model
from surrogate.model.prediction import predict_dataset
from surrogate.model.spike_rule import SpikeRule, match_output_rate
from surrogate.training.epoch_scores import epoch_scores
from surrogate.training.windows import Batch, plan_validation_windows, read_batch

CHANNELS = Channels.of(excitatory=10, inhibitory=10)


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
    assert {report[score.name] for score in SPIKE_SCORES} == {None}
    assert report["error_anatomy"] is report["interspike_intervals"] is None
    for score in set(SCORES.values()) - set(SPIKE_SCORES):
        value, ends = report[score.name], report[f"{score.name}_interval"]
        assert (value.keys() == ends.keys()) if score.at else (ends[0] <= value <= ends[1])
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
        outputs = run_protocol(model.stack, data, [0])
        report = evaluate_outputs(model, data, "test", outputs)
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
