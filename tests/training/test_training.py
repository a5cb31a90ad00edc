"""Training: it learns, repeats itself, resumes bit for bit, and says when it failed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors

import surrogate
from surrogate import datasets
from surrogate.errors import DataError, Interrupted, SurrogateError, UsageError
from surrogate.model.stack import RecurrentStack
from surrogate.stored import seal, unseal
from surrogate.training.initial_weights import initialise
from surrogate.training.loop import train_to_end
from surrogate.training.recipe import Recipe, load_recipe
from surrogate.training.run import open_trainer
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import Trainer, loss_terms
from surrogate.training.windows import Batch, plan_validation_windows

SMALL = {
    "windows_per_epoch": 8,
    "batch_size": 4,
    "window_ms": 100,
    "burn_in_ms": 20,
    "epochs": 4,
}


def _recipe(**overrides: object) -> Recipe:
    return load_recipe("tuned", "lstm", {**SMALL, **overrides})


def _trainer(data: Path, folder: Path, arch: str = "lstm", seed: int = 1, **overrides) -> Trainer:
    dataset = datasets.open(data)
    settings = {**SMALL, **overrides}
    config = RunConfig.for_dataset(
        dataset, arch, (6, 2), settings=settings, seed=seed, reuse_windows=True
    )
    return open_trainer(config, dataset, RunFolder(folder))


def _train(*arguments, **keywords) -> Trainer:
    trainer = _trainer(*arguments, **keywords)
    train_to_end(trainer)
    return trainer


def _same_weights(one: Trainer, two: Trainer) -> bool:
    a, b = one.best_stack().state_dict(), two.best_stack().state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_training_teaches_the_toy_neuron(toy_data, tmp_path, arch) -> None:
    settings = {"epochs": 10, "windows_per_epoch": 160, "batch_size": 16, "learning_rate": 0.02}
    trainer = _train(toy_data, tmp_path / "run", arch, window_ms=200, **settings)
    first, last = trainer.history[0], trainer.history[-1]
    assert last["loss"] < first["loss"]
    assert last["voltage_rmse_mv"] < 0.8 * first["voltage_rmse_mv"]
    assert max(entry["roc_auc"] for entry in trainer.history) > 0.85


def test_two_runs_with_one_seed_give_one_result_and_another_seed_another(toy_data, tmp_path):
    one = _train(toy_data, tmp_path / "one")
    two = _train(toy_data, tmp_path / "two")
    other = _train(toy_data, tmp_path / "other", seed=2)
    assert _same_weights(one, two)
    assert not _same_weights(one, other)


@pytest.mark.parametrize("overrides", [{}, {"weight_average": 0.9, "event_drop": 0.2}])
def test_an_interrupted_run_resumes_bit_equal(toy_data, tmp_path, overrides) -> None:
    whole = _train(toy_data, tmp_path / "whole", **overrides)
    for stop_after in (1, 2, 5):
        folder = tmp_path / f"stopped {stop_after}"
        trainer = _trainer(toy_data, folder, **overrides)

        def interrupt(progress, stop_after=stop_after) -> None:
            if progress.step == stop_after:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Interrupted, match=f"stopped after step {stop_after} of 8"):
            train_to_end(trainer, interrupt)
        resumed = _trainer(toy_data, folder, **overrides)
        assert resumed.resume() is None
        assert resumed.step == stop_after
        train_to_end(resumed)
        assert _same_weights(resumed, whole)
        assert (folder / "metrics.jsonl").read_text() == (
            tmp_path / "whole" / "metrics.jsonl"
        ).read_text()


def test_signal_handlers_are_put_back(toy_data, tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)
    _train(toy_data, tmp_path / "run", epochs=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(toy_data, tmp_path) -> None:
    folder = tmp_path / "run"
    whole = _train(toy_data, folder)
    newest = folder / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-500])
    resumed = _trainer(toy_data, folder)
    note = resumed.resume()
    assert "checkpoint.pt is damaged" in (note or "")
    assert resumed.step == 6
    assert not newest.exists()  # so that it cannot take the place of the good one
    train_to_end(resumed)
    assert _same_weights(resumed, whole)
    newest.write_bytes(b"")
    (folder / "checkpoint.previous.pt").write_bytes(b"junk")
    again = _trainer(toy_data, folder)
    note = again.resume()
    assert note is not None
    assert note.count("is damaged") == 2
    assert note.endswith("; starting again")
    assert again.step == 0
    train_to_end(again)
    assert _same_weights(again, whole)


def test_one_bit_of_a_checkpoint_never_changes_a_resumed_run(toy_data, tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    whole = _train(toy_data, folder.path)
    names = ("checkpoint.pt", "checkpoint.previous.pt")
    good = {name: (folder.path / name).read_bytes() for name in names}
    newest = good["checkpoint.pt"]
    rng, resumed = np.random.default_rng(0), _trainer(toy_data, folder.path)
    for at in rng.integers(0, len(newest), 200):
        damaged = bytearray(newest)
        damaged[at] ^= 1 << rng.integers(8)
        (folder.path / "checkpoint.pt").write_bytes(damaged)
        (folder.path / "checkpoint.previous.pt").write_bytes(good["checkpoint.previous.pt"])
        note = resumed.resume()
        assert "checkpoint.pt is damaged (its seal is broken); going on from" in (note or "")
        assert 0 < resumed.step < whole.step


def _checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    content = unseal(path.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return safetensors.load(content), json.loads(header["__metadata__"]["state"])


NAME = "weights.layers.0.weight_ih_l0"
#: Arrays and state that are changed, and what the note then says.
STRUCTURE = {
    "a weight is missing": ({NAME: None}, {}, f"'{NAME}' is missing"),
    "a weight is too many": ({"weights.more": np.zeros(3, np.float32)}, {}, "is too many"),
    "the epoch kept is missing": ({"kept.head.weight": None}, {}, "'kept.head.weight' is missing"),
    "a moment is missing": ({"exp_avg.head.bias": None}, {}, "'exp_avg.head.bias' is missing"),
    "another shape": ({NAME: np.zeros((2, 2), np.float32)}, {}, "expected float32 (24, 20)"),
    "another type": ({NAME: np.zeros((24, 20))}, {}, "is float64 (24, 20), expected float32"),
    "integers": ({NAME: np.zeros((24, 20), np.int8)}, {}, "is int8 (24, 20), expected float32"),
    "no step": ({}, {"step": None}, "state step = None: expected a whole number"),
    "step after the end": ({}, {"step": 9}, "epochs, which this run never has"),
    "step as text": ({}, {"step": "8"}, "state step = '8'"),
    "a huge step": ({}, {"step": 10**400}, "step 10"),
    "history of another length": ({}, {"history": []}, "after 0 epochs"),
    "history of numbers": ({}, {"history": [1, 2, 3, 4]}, "state history.0 = 1: expected a table"),
    "no history": ({}, {"history": {}}, "state history = {}: expected a list"),
    "sums of one": ({}, {"sums": [0.0]}, "state sums = [0.0]"),
    "endless seconds": ({}, {"seconds": float("inf")}, "state seconds = inf"),
    "rates as text": ({}, {"input_rate_hz": "none"}, "state input_rate_hz = 'none'"),
    "an unknown key": ({}, {"more": 1}, "unknown state key 'more'"),
}


@pytest.mark.parametrize(("arrays", "state", "message"), STRUCTURE.values(), ids=STRUCTURE)
def test_a_checkpoint_of_another_structure_is_named_and_the_one_before_used(
    arrays, state, message, toy_data, tmp_path
) -> None:
    folder = tmp_path / "run"
    whole = _train(toy_data, folder)
    for name, step in (("checkpoint.pt", 6), ("checkpoint.previous.pt", 0)):
        good, known = _checkpoint(folder / name)
        changed = {key: value for key, value in (good | arrays).items() if value is not None}
        content = safetensors.save(changed, {"state": json.dumps(known | state)})
        (folder / name).write_bytes(seal(content))
        resumed = _trainer(toy_data, folder)
        note = resumed.resume() or ""
        assert f"{name} is damaged (" in note
        assert message in note
        assert note.endswith("starting again" if step == 0 else "from checkpoint.previous.pt")
        assert resumed.step == step
    train_to_end(resumed)
    assert _same_weights(resumed, whole)


def test_leftovers_of_a_killed_write_are_removed_on_resume(toy_data, tmp_path) -> None:
    folder = tmp_path / "run"
    trainer = _trainer(toy_data, folder)
    leftover = folder / ".checkpoint.pt.123.partial"
    leftover.write_bytes(b"half")
    trainer.resume()
    assert not leftover.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_epochs_before(toy_data, tmp_path):
    trainer = _trainer(toy_data, tmp_path / "run")

    def poison(progress) -> None:
        if progress.step == 3:
            with torch.no_grad():
                trainer.stack.layers[0].bias_hh_l0[0] = float("nan")

    train_to_end(trainer, poison)
    assert trainer.failure == "loss or gradient not finite at step 4"
    assert len(trainer.history) == 1
    assert all(value.isfinite().all() for value in trainer.best_stack().state_dict().values())


def test_a_run_that_fails_before_an_epoch_has_no_weights_and_says_so(toy_data, tmp_path) -> None:
    trainer = _trainer(toy_data, tmp_path / "run")
    with torch.no_grad():
        trainer.stack.layers[0].bias_hh_l0[0] = float("nan")
    train_to_end(trainer)
    with pytest.raises(SurrogateError, match=r"not finite at step 1 .* lower --learning-rate"):
        trainer.best_stack()


def test_patience_ends_a_run_early(toy_data, tmp_path) -> None:
    settings = {"epochs": 50, "learning_rate": 0, "learning_rate_min": 0, "patience": 3}
    trainer = _train(toy_data, tmp_path / "run", **settings)
    assert len(trainer.history) == 4


def test_the_loss_is_the_blogs_sum(tmp_path) -> None:
    recipe = load_recipe("blog", "lstm", {"class_weight": "5", "voltage_unit_mv": "100"})
    generator = torch.Generator().manual_seed(0)
    logits, voltage, target = (torch.randn(3, 50, generator=generator) for _ in range(3))
    spikes = (torch.rand(3, 50, generator=generator) < 0.2).float()
    batch = Batch(None, spikes, target * 100)  # type: ignore[arg-type]
    spike_loss, voltage_loss = loss_terms(recipe, batch, logits, voltage * 100, burn_in=0)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(5.0))(logits, spikes)
    torch.testing.assert_close(spike_loss, expected)
    torch.testing.assert_close(voltage_loss, torch.nn.MSELoss()(voltage, target))


def test_burn_in_and_clipping_keep_bins_and_spikes_out_of_the_loss() -> None:
    recipe = _recipe(voltage_clip_mv=-55.0, voltage_unit_mv=10.0)
    logits, spikes = torch.zeros(2, 100), torch.zeros(2, 100)
    voltage, target = torch.full((2, 100), -60.0), torch.full((2, 100), -60.0)
    target[:, :20], logits[:, :20] = 1000.0, 1e6
    target[0, 50], voltage[0, 50] = 30.0, -54.0
    spike_loss, voltage_loss = loss_terms(
        recipe,
        Batch(None, spikes, target),  # type: ignore[arg-type]
        logits,
        voltage,
        burn_in=20,
    )
    assert spike_loss.item() == pytest.approx(np.log(2), rel=1e-6)
    assert voltage_loss.item() == pytest.approx(0.1**2 / 160, rel=1e-4)


def test_sign_aware_weights_oppose_excitation_and_inhibition(toy_data) -> None:
    with datasets.open(toy_data) as data:
        stack = RecurrentStack("lstm", (6, 2), 20, "linear")
        initialise(stack, _recipe(), data, data.trial_indices("train"), seed=0)
        weight = stack.state_dict()["layers.0.weight_ih_l0"]
        spikes = sum(len(data.spike_times(int(t))) for t in data.trial_indices("train"))
    # One value for all synapses of a kind, of opposite sign for the other kind.
    assert (weight[:, :10] == weight[:, :1]).all()
    assert (weight[:, 10:] == weight[:, 10:11]).all()
    assert (torch.sign(weight[:, 0]) == -torch.sign(weight[:, 10])).all()
    assert len(set(torch.sign(weight[:, 0]).tolist())) == 2
    rate = spikes / (8 * 400)
    assert torch.sigmoid(stack.state_dict()["head.bias"][0]).item() == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("steps_per_epoch", [4, 20])
def test_validation_takes_at_most_a_twentieth_of_an_epochs_steps(
    toy_data, tmp_path, steps_per_epoch
):
    settings = {"windows_per_epoch": 4 * steps_per_epoch, "window_ms": 200}
    trainer = _trainer(toy_data, tmp_path / "run", **settings)
    validation = trainer.validation.events
    # A training step runs forward and backward, which takes at least twice as long as forward.
    assert validation.steps <= 0.05 * 2 * steps_per_epoch * 200
    assert validation.batch <= SMALL["batch_size"]
    assert 0 <= trainer.validation_burn_in < validation.steps


def test_outputs_that_are_not_finite_after_an_epoch_fail_the_run(toy_data, tmp_path) -> None:
    trainer = _trainer(toy_data, tmp_path / "run", weight_average=0.5)

    def poison(progress) -> None:
        if progress.step == 3:  # what is validated at the end of the epoch, not what is trained
            trainer.averaged.head.bias.data.fill_(float("nan"))

    train_to_end(trainer, poison)
    assert trainer.failure == "outputs not finite after epoch 2"
    assert trainer.selection.entry is not None
    assert trainer.selection.entry["epoch"] == 1


def test_a_run_configuration_survives_its_file_and_damage_is_named(toy_data, tmp_path) -> None:
    trainer = _trainer(toy_data, tmp_path / "run")
    assert trainer.folder.config() == trainer.config
    (tmp_path / "run" / "run.json").write_text('{"format": "surrogate-run"')
    with pytest.raises(DataError, match=r"run.json: damaged"):
        trainer.folder.config()
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder(tmp_path / "nothing").config()


def test_a_second_process_may_not_train_in_the_same_folder(toy_data, tmp_path) -> None:
    run = _trainer(toy_data, tmp_path / "run").folder
    refused = pytest.raises(SurrogateError, match="another process is training")
    with run.lock(), refused, run.lock():
        pytest.fail("two locks on one folder")
    with run.lock():
        pass  # free again


def test_input_rates_seen_are_recorded_in_hz_per_synapse(toy_data, tmp_path) -> None:
    trainer = _train(toy_data, tmp_path / "run")
    for low, high in trainer.input_rate_hz.values():
        assert 20 < low < 60 < high < 100  # the toy's inputs fire at 60 Hz


def _epochs_done(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_killed_at_random_moments_and_resumed_the_weights_are_bit_equal(
    toy_data, toy_teacher, tmp_path, taught
):
    arguments = [
        "--data", str(toy_data), "--hidden", "6-2", "--threads", "1", "--no-plots",
        "--set", "windows_per_epoch=8", "--set", "batch_size=4", "--set", "window_ms=100",
        "--set", "burn_in_ms=20", "--set", "patience=0", "--epochs", "120",
    ]  # fmt: skip
    if taught:
        arguments += [
            "--teacher", str(toy_teacher), "--set", "protocol_scale=0.3",
            "--set", "teacher_trials=600", "--set", "real_share=0.25", "--set", "finetune_epochs=9",
        ]  # fmt: skip
    command = [sys.executable, "-m", "surrogate.cli.main", "train"]
    whole = tmp_path / "whole"
    subprocess.run([*command, *arguments, "--out", str(whole)], check=True, capture_output=True)
    rng, killed = random.Random(3), tmp_path / "killed run"
    start = [*command, *arguments, "--out", str(killed)]
    resume = [*command, "--resume", str(killed), "--threads", "1", "--no-plots"]
    for epochs in (1, 2, 17, 31, 44):
        started = (killed / "run.json").exists()
        process = subprocess.Popen(resume if started else start, stderr=subprocess.DEVNULL)
        while _epochs_done(killed) < epochs:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.1 * rng.random())  # anywhere: within a step, validation, saving
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "result.json").exists()
    subprocess.run(resume, check=True, capture_output=True)
    one, two = (
        safetensors.load(unseal((run / "checkpoint.pt").read_bytes())) for run in (whole, killed)
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert np.array_equal(value, two[name]), name
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()


def test_recipes_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _recipe().epochs = 3  # type: ignore[misc]


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(toy_data, tmp_path) -> None:
    folder = tmp_path / "run"
    trainer = _trainer(toy_data, folder)
    trainer.save()
    before = (folder / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"checkpoint.pt: "):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob(".*.partial"))


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_memory_init_forgets_at_the_stated_time_constants(toy_data, arch) -> None:
    stack = RecurrentStack(arch, (400, 2), 20, "linear")
    with datasets.open(toy_data) as data:
        recipe = _recipe(memory_ms=50.0)
        initialise(stack, recipe, data, data.trial_indices("train"), seed=0)
    bias = stack.get_parameter("layers.0.bias_ih_l0").detach()
    if arch == "rnn":
        kept = stack.get_parameter("layers.0.weight_hh_l0").detach().diag()
        low, high = np.exp(-1 / 2) - 0.02, np.exp(-1 / 50) + 0.02
    else:
        kept = torch.sigmoid(bias[400:800])
        low, high = 1 - 1 / 2, 1 - 1 / 50
    assert low - 1e-6 <= kept.min() < 0.65
    assert 0.95 < kept.max() <= high + 1e-6
    if arch == "lstm":  # what is not kept is replaced
        torch.testing.assert_close(torch.sigmoid(bias[:400]), 1 - kept)
    elif arch == "rnn":
        assert (bias == 0).all()


def test_validation_windows_cover_the_trials_without_overlap() -> None:
    plan = plan_validation_windows(np.array([4, 7]), n_steps=400, length=150, count=8)
    assert list(zip(plan.trial, plan.start, strict=True)) == [(4, 0), (4, 150), (7, 0), (7, 150)]
    few = plan_validation_windows(np.arange(10), n_steps=400, length=1000, count=4)
    assert few.window == 400
    assert list(few.trial) == [0, 3, 6, 9]


@pytest.mark.parametrize(("split", "kind"), [("train", "training"), ("valid", "validation")])
def test_a_split_without_a_spike_is_refused_before_training(
    toy_data, tmp_path, split, kind
) -> None:
    with datasets.open(toy_data) as data:
        trials = [
            dataclasses.replace(
                trial, spike_time_ms=np.zeros(0), rounded_spike_time_ms=np.zeros(0, np.float32)
            )
            if trial.split == split
            else trial
            for trial in data
        ]
        datasets.write(tmp_path / "silent.h5", data.header, trials, {"source": "a silent neuron"})
    with pytest.raises(DataError, match=f"no {kind} trial has a spike"):
        surrogate.train(tmp_path / "silent.h5", arch="rnn", hidden="4-2", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
