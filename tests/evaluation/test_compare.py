"""Models side by side: paired differences, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import surrogate
from surrogate import RecurrentStack
from surrogate.cli.main import cli, main
from surrogate.errors import UsageError
from surrogate.evaluation.bootstrap import draw_weights
from surrogate.evaluation.scores import SCORES
from surrogate.model.card import ModelCard
from surrogate.model.model_file import save
from surrogate.model.spike_rule import SpikeRule


@pytest.fixture
def paths(tmp_path: Path, model_path: Path) -> list[Path]:
    """A model, one like it, and one of another architecture without a spike rule."""
    first = surrogate.load(model_path)
    first.card.spike_rule = SpikeRule("level", 0.12, 4, "hand")
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    save(paths[0], first.stack, first.card)
    with torch.no_grad():
        for weight in first.stack.parameters():
            weight += 0.02 * torch.randn_like(weight)
    save(paths[1], first.stack, first.card)
    other = RecurrentStack("rnn", (3, 2), 20)
    save(paths[2], other, ModelCard(other.spec, first.card.channels, 1.0))
    return paths


def test_differences_are_paired_over_resampled_trials(paths, toy_data) -> None:
    found = surrogate.compare(paths, toy_data, split="all", bootstrap=40, seed=3)
    weights = draw_weights(12, 40, 3).astype(int)
    for name, at in (("roc_auc", None), ("event_f1", 2), ("voltage_rmse_mv", None)):
        entry = found["scores"][name] if at is None else found["scores"][name][str(at)]
        each = np.array(
            [
                [
                    SCORES[name].function(
                        one.outputs.pick(np.repeat(np.arange(12), row)), *[at] * (at is not None)
                    )
                    for row in weights
                ]
                for one in found.evaluations[:2]
            ]
        )
        for index, row in enumerate(each):
            assert entry["intervals"][index] == pytest.approx(np.quantile(row, [0.025, 0.975]))
        assert entry["differences"][1] == entry["values"][1] - entry["values"][0]
        ends = np.quantile(each[1] - each[0], [0.025, 0.975])
        assert entry["difference_intervals"][1] == pytest.approx(ends)
        assert entry["differences"][0] is entry["difference_intervals"][0] is None


def test_values_and_intervals_are_those_of_an_evaluation(paths, toy_data) -> None:
    found = surrogate.compare(paths, toy_data, split="all", bootstrap=30)
    for index, path in enumerate(paths):
        alone = surrogate.evaluate(path, toy_data, split="all", bootstrap=30)
        for name, score in SCORES.items():
            for at in score.at or [None]:
                entry = found["scores"][name] if at is None else found["scores"][name][str(at)]
                for key, list_of in ((name, "values"), (f"{name}_interval", "intervals")):
                    expected = alone[key]
                    if at is not None:
                        expected = (expected or {}).get(str(at))
                    assert entry[list_of][index] == expected


def test_a_model_differs_from_itself_by_nothing(paths, toy_data) -> None:
    entry = surrogate.compare(paths[:1] * 2, toy_data, split="all", bootstrap=30)["scores"]
    assert entry["event_f1"]["2"]["differences"][1] == 0
    assert entry["event_f1"]["2"]["difference_intervals"][1] == [0, 0]
    assert entry["roc_auc"]["intervals"][1][0] < entry["roc_auc"]["intervals"][1][1]


def test_a_model_without_a_rule_has_no_difference_in_spikes(paths, toy_data) -> None:
    found = surrogate.compare(paths, toy_data, split="all", bootstrap=10)
    assert found["scores"]["gamma_2ms"]["differences"][2] is None
    assert found["scores"]["gamma_2ms"]["difference_intervals"][2] is None
    assert found["scores"]["nll"]["difference_intervals"][2] is not None


def test_the_command_prints_what_python_returns(paths, toy_data) -> None:
    arguments = ["compare", *map(str, paths), "--data", str(toy_data), "--split", "all"]
    printed = CliRunner().invoke(cli, [*arguments, "--bootstrap", "20", "--json"]).stdout
    expected = surrogate.compare(paths, toy_data, split="all", bootstrap=20)
    assert json.loads(printed) == expected
    table = CliRunner().invoke(cli, [*arguments, "--bootstrap", "20"]).stdout
    assert table.strip() == str(expected)
    assert "#3 rnn 3-2" in table
    line = next(line for line in table.splitlines() if line.startswith("ROC AUC"))
    first, second = (expected["scores"]["roc_auc"]["values"][index] for index in (0, 1))
    assert line.split()[2:5] == [f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"]


def test_one_model_is_not_compared(paths, toy_data, capsys) -> None:
    assert main(["compare", str(paths[0]), "--data", str(toy_data)]) == 2
    assert "fewer than two models" in capsys.readouterr().err
    with pytest.raises(UsageError, match="fewer than two models"):
        surrogate.compare(paths[0], toy_data)
