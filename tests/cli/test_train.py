"""`surrogate train` from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import surrogate
from surrogate.cli.main import main
from surrogate.stored import unseal_json

SMALL = [
    *("--hidden", "6-2", "--threads", "1", "--set", "windows_per_epoch=8"),
    *("--set", "batch_size=4", "--set", "window_ms=100", "--set", "burn_in_ms=20"),
]


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def _run(*arguments: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("runs") / "a run"
    result = _run(
        *("train", "--data", toy_data, "--out", folder, "--arch", "gru", "--epochs", "2", "--json"),
        *SMALL,
    )
    assert result.exit_code == 0, result.stderr
    return result, folder


def test_json_ends_with_run_folder_model_file_and_validation_metrics(trained) -> None:
    result, folder = trained
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed["run"] == str(folder)
    assert printed["model"] == str(folder / "model.safetensors")
    assert printed["epochs"] == 2
    assert 0 <= printed["validation"]["roc_auc"] <= 1
    assert printed["validation"]["n_trials"] == 2
    assert printed == unseal_json(folder / "result.json")


def test_the_run_folder_holds_recipe_metrics_plots_and_a_model_that_predicts(
    trained, toy_data
) -> None:
    _, folder = trained
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert (recipe["base"], recipe["epochs"], recipe["window_ms"]) == ("tuned", 2, 100)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    for plot in ("learning_curve.png", "roc.png", "traces.png"):
        assert (folder / plot).read_bytes().startswith(b"\x89PNG")
    model = surrogate.load(folder / "model.safetensors")
    card = model.card
    assert (card.spec.arch, card.spec.hidden_sizes, card.spec.input_size) == ("gru", (6, 2), 20)
    assert [(group.name, group.size) for group in card.channels.groups] == [
        ("excitatory", 10),
        ("inhibitory", 10),
    ]
    assert card.resting_voltage_mv == -75
    assert set(card.segments) == {"type", "length_um", "distance_um", "section"}
    for key in ("segment_jitter", "learning_rate", "epochs", "select_by"):
        assert card.recipe[key] == recipe[key]
    assert card.spike_rule is not None
    probability, voltage = model.predict(surrogate.datasets.open(toy_data))
    assert probability.shape == voltage.shape == (12, 400)


def test_resuming_a_finished_run_prints_its_result_and_leaves_its_model(trained) -> None:
    _, folder = trained
    before = (folder / "model.safetensors").read_bytes()
    result = _run("train", "--resume", folder, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed == unseal_json(folder / "result.json")
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_run_stopped_while_evaluating_is_finished_by_resuming(trained) -> None:
    _, folder = trained
    before = unseal_json(folder / "result.json")["validation"]
    for name in ("result.json", "model.safetensors"):
        (folder / name).unlink()
    result = _run("train", "--resume", folder, "--json", "--no-plots")
    assert result.exit_code == 0, result.stderr
    after = json.loads(result.stdout.splitlines()[-1])["validation"]
    for key in ("roc_auc", "nll", "voltage_rmse_mv"):
        assert after[key] == before[key]


def test_the_next_command_names_the_data_and_a_split_they_have(toy_data, tmp_path) -> None:
    result = _run(
        *("train", "--data", toy_data, "--out", tmp_path / "r 1", "--epochs", "1", "--no-plots"),
        *SMALL,
    )
    command = shlex.split(result.stdout.splitlines()[-1].removeprefix("next: surrogate "))
    assert _run(*command, "--bootstrap", "0").exit_code == 0
    assert command[command.index("--data") + 1] == str(toy_data)


@pytest.mark.parametrize("select_by", ["nll", "auc", "spread", "last"])
def test_each_selection_and_legacy_labels_train_from_the_command_line(
    select_by, toy_data, tmp_path
) -> None:
    result = _run(
        *("train", "--data", toy_data, "--out", tmp_path / "run", "--epochs", "2", "--no-plots"),
        *("--select-by", select_by, "--labels", "legacy", "--json"),
        *SMALL,
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["validation"]["labels"] == "legacy"


def test_a_single_validation_trial_ends_in_a_model(toy_data, tmp_path) -> None:
    path = tmp_path / "one valid.h5"
    with surrogate.datasets.open(toy_data) as data:
        trials = [data[0], dataclasses.replace(data[1], split="valid")]
        surrogate.datasets.write(path, data.header, trials)
    result = _run("train", "--data", path, "--out", tmp_path / "run", "--epochs", "1", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert surrogate.load(tmp_path / "run" / "model.safetensors").card.spike_rule is not None


def test_a_neuron_without_inhibitory_synapses_can_be_trained(toy_data, tmp_path) -> None:
    path = tmp_path / "excitatory.h5"
    with surrogate.datasets.open(toy_data) as data:
        channels = surrogate.datasets.Channels.of(excitatory=20)
        header = dataclasses.replace(data.header, channels=channels, segments={})
        surrogate.datasets.write(path, header, data)
    arguments = ["--data", path, "--out", tmp_path / "run", "--epochs", "1", "--no-plots"]
    result = _run("train", *arguments, *SMALL)
    assert result.exit_code == 0, result.stderr
    card = surrogate.load(tmp_path / "run" / "model.safetensors").card
    assert set(card.input_rate_hz) == {"excitatory"}


def test_data_without_a_split_are_refused_with_the_cure(toy_data, tmp_path) -> None:
    path = tmp_path / "no split.h5"
    with surrogate.datasets.open(toy_data) as data:
        trial = dataclasses.replace(data[0], split=None)
        surrogate.datasets.write(path, data.header, [trial])
    result = _run("train", "--data", path, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 2
    assert "convert again with --split-fractions" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "elman"], "unknown arch 'elman': expected one of rnn, gru, lstm"),
        (["--hidden", "64-32"], "end in 32: the last must be 2"),
        (["--hidden", "big"], "hidden sizes 'big'"),
        (["--recipe", "blogg"], "did you mean 'blog'"),
        (["--set", "learning_rte=1"], "did you mean 'learning_rate'"),
        (["--set", "seed=1"], "unknown recipe key 'seed'"),
        (["--set", "epochs"], "expected KEY=VALUE"),
        (["--class-weight", "heavy"], "class_weight = 'heavy': expected a number"),
        (["--device", "tpu"], "expected cpu or cuda"),
        (["--device", "cuda:99"], "CUDA GPUs; use cpu"),
        (["--data", "nowhere.h5"], "nowhere.h5"),
        (["--resume", "nowhere"], "holds no run"),
        (["--set", "window_ms=6001"], "do not fit trials of 6000 ms; use --set window_ms=6000"),
        (["--out", ""], "--out is empty"),
        (["--resume", ""], "--resume is empty"),
        (["--seed", "18446744073709551616"], "--seed"),
        (["--set", "epochs=1\nbatch_size = 2"], "expected a whole number"),
        (["--set", f"class_weight={10**400}"], "class_weight = 10000"),
        (["--set", "epochs=100000000", "--reuse-windows"], "expected"),
        (["--epochs", "2", "--set", "epochs=3"], "say the same; leave one out"),
        (["--set", "epochs=2", "--set", "epochs=3"], "given twice"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    arguments, message, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("train", *arguments)
    assert result.exit_code in (1, 2)
    error = result.stderr.strip().splitlines()
    assert error[-1].startswith("Error: ")
    assert message in error[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_windows_that_run_out_need_reuse_windows(toy_data, tmp_path) -> None:
    arguments = ["train", "--data", toy_data, *SMALL, "--set", "window_rule=one_per_trial"]
    arguments += ["--epochs", "2"]
    refused = _run(*arguments, "--out", tmp_path / "one")
    assert refused.exit_code == 2
    assert "takes 16 windows, the data hold 8 trials" in refused.stderr
    assert not (tmp_path / "one").exists()
    allowed = _run(*arguments, "--out", tmp_path / "two", "--reuse-windows", "--no-plots")
    assert allowed.exit_code == 0, allowed.stderr
    assert "they come again in a new order" in allowed.stderr


def test_a_resumed_run_refuses_to_become_another(trained, tmp_path) -> None:
    _, folder = trained
    changed = _run("train", "--resume", folder, "--seed", "4")
    assert changed.exit_code == 2
    assert "--seed cannot change in a resumed run" in changed.stderr
    other = surrogate.datasets.sample_path()
    wrong_data = _run("train", "--resume", folder, "--data", other)
    assert wrong_data.exit_code == 2
    assert "is not the data set of this run" in wrong_data.stderr


def test_an_output_folder_that_cannot_be_made_is_named(toy_data, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    result = _run("train", "--data", toy_data, "--out", tmp_path / "file" / "run", *SMALL)
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.stderr
    assert "not a folder" in result.stderr
