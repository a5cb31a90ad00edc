"""The command `surrogate evaluate`, what it writes and draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import surrogate
from surrogate import RecurrentStack, datasets
from surrogate.channels import Channels
from surrogate.cli.main import cli, main
from surrogate.errors import UsageError
from surrogate.evaluation.protocols import Outputs
from surrogate.model.card import ModelCard
from surrogate.model.model_file import save
from surrogate.plots.evaluation import plot_roc, plot_traces, roc_in_terminal


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
