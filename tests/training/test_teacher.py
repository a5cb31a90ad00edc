"""A teacher labels input that is drawn anew: what a student sees, and that it is the same again."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import surrogate
from surrogate import datasets
from surrogate.channels import Channels
from surrogate.errors import DataError, Interrupted, UsageError
from surrogate.model.model_file import load, save
from surrogate.simulate.protocols import L5PCProtocol
from surrogate.training import teacher as teacher_module
from surrogate.training.loop import train_to_end
from surrogate.training.recipe import load_recipe
from surrogate.training.run import open_trainer
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import RunFolder
from surrogate.training.teacher import BLOCK, POOL, Teacher
from surrogate.training.trainer import Trainer
from surrogate.training.windows import read_batch

TAUGHT = {
    "windows_per_epoch": 16,
    "batch_size": 4,
    "window_ms": 100,
    "burn_in_ms": 20,
    "epochs": 4,
    "teacher_trials": 24,
    "protocol_scale": 0.3,
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(teacher_module, "BLOCK", 3)
    monkeypatch.setattr(teacher_module, "POOL", 2)


def _trainer(data: Path, teacher: Path, folder: Path, **overrides: object) -> Trainer:
    dataset, model = datasets.open(data), load(teacher)
    config = RunConfig.for_dataset(
        dataset, "gru", (6, 2), None, {**TAUGHT, **overrides}, teacher=model, reuse_windows=True
    )
    return open_trainer(config, dataset, RunFolder(folder), teacher=model)


def test_labels_are_what_the_teacher_says_of_whole_drawn_trials(toy_data, toy_teacher) -> None:
    model, recipe = load(toy_teacher), load_recipe("distilled", "gru", TAUGHT)
    with datasets.open(toy_data) as dataset:
        teacher = Teacher(load(toy_teacher), recipe, dataset, 5, "cpu")
        events = L5PCProtocol(dataset.channels, dataset.segments, dataset.n_steps, scale=0.3).draw(
            5, range(24)
        )
    probability, voltage = model.predict(events)
    dense = events.to_dense(20)
    seen = set()
    for step in (0, 1, 7, 15):
        batch = teacher.read(step, 4)
        for row, window in enumerate(batch.events.to_dense(20)):
            found = [
                (trial, start)
                for trial in range(24)
                for start in range(301)
                if torch.equal(dense[trial, start : start + 100], window)
            ]
            assert len(found) == 1
            trial, start = found[0]
            newest = step * 8 // 16
            assert max(0, newest - 1) <= trial // 3 <= newest
            seen.add(trial)
            for labels, whole in ((batch.spikes, probability), (batch.voltage, voltage)):
                expected = torch.from_numpy(whole[trial, start : start + 100])
                torch.testing.assert_close(labels[row], expected, rtol=1e-5, atol=1e-5)
        assert batch.spikes.min() > 0
        assert batch.spikes.max() < 1
    assert len(seen) > 8


def test_a_batch_mixes_real_trials_in_and_fine_tuning_takes_them_alone(
    toy_data, toy_teacher, tmp_path
) -> None:
    trainer = _trainer(toy_data, toy_teacher, tmp_path / "run", real_share=0.25, finetune_epochs=2)
    assert len(trainer.plan.trial) == 8 * 1 + 8 * 4
    assert trainer.teacher is not None
    first = 0
    for step in range(trainer.config.recipe.steps):
        batch, real = trainer.read(step).batch, 1 if step < 8 else 4
        expected = read_batch(trainer.dataset, trainer.plan, first, real, "exact")
        assert torch.equal(batch.spikes[:real], expected.spikes)
        assert torch.equal(batch.voltage[:real], expected.voltage)
        if real == 1:
            taught = trainer.teacher.read(step, 3)
            assert torch.equal(batch.spikes[1:], taught.spikes)
            assert torch.equal(
                batch.events.slice_batch(1, 3).to_dense(20), taught.events.to_dense(20)
            )
        first += real
    assert first == len(trainer.plan.trial)


def test_few_blocks_are_kept_and_each_is_labelled_once(toy_data, toy_teacher, monkeypatch) -> None:
    labelled = []
    label = Teacher._label
    monkeypatch.setattr(
        Teacher, "_label", lambda self, index: labelled.append(index) or label(self, index)
    )
    recipe = load_recipe("distilled", "gru", {**TAUGHT, "epochs": 40, "teacher_trials": 250})
    with datasets.open(toy_data) as dataset:
        teacher = Teacher(load(toy_teacher), recipe, dataset, 0, "cpu")
    for step in range(recipe.steps):
        teacher.read(step, 4)
        assert len(teacher._blocks) <= 3
    assert labelled == list(range(84))
    last = teacher._blocks[83].result()
    assert last.events.batch == 250 - 83 * 3


def test_a_million_trials_take_no_more_memory_than_the_pool(toy_data, toy_teacher) -> None:
    recipe = load_recipe("distilled", "gru", {**TAUGHT, "teacher_trials": 10**6})
    with datasets.open(toy_data) as dataset:
        teacher = Teacher(load(toy_teacher), recipe, dataset, 0, "cpu")
    batch = teacher.read(11, 4)  # in the middle, where a resumed run begins
    assert batch.events.batch == 4
    assert len(teacher._blocks) <= 3
    assert BLOCK * POOL * 6000 * 14 * 2 < 50e6  # bytes of events, as the module is


def test_an_interrupted_run_resumes_bit_equal(toy_data, toy_teacher, tmp_path) -> None:
    settings = {"real_share": 0.25, "finetune_epochs": 1}
    whole = _trainer(toy_data, toy_teacher, tmp_path / "whole", **settings)
    train_to_end(whole)
    for stop_after in (1, 6, 9, 13):
        folder = tmp_path / f"stopped {stop_after}"

        def interrupt(progress, stop_after=stop_after) -> None:
            if progress.step == stop_after:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Interrupted):
            train_to_end(_trainer(toy_data, toy_teacher, folder, **settings), interrupt)
        resumed = _trainer(toy_data, toy_teacher, folder, **settings)
        resumed.resume()
        assert resumed.step == stop_after
        train_to_end(resumed)
        assert resumed.history == whole.history
        for name, value in whole.stack.state_dict().items():
            assert torch.equal(value, resumed.stack.state_dict()[name]), name


def test_a_student_comes_close_to_its_teacher_and_its_card_says_who_that_was(
    toy_data, toy_teacher, tmp_path
) -> None:
    run = surrogate.train(
        toy_data,
        arch="gru",
        hidden="8-2",
        teacher=toy_teacher,
        seed=3,
        out=tmp_path / "run",
        plots=False,
        **{**TAUGHT, "window_ms": 200, "learning_rate": 0.01, "windows_per_epoch": 128},
    )
    model, teacher = run.model, load(toy_teacher)
    with datasets.open(toy_data) as dataset:
        (_, ours), (_, theirs) = model.predict(dataset), teacher.predict(dataset)
    assert np.corrcoef(ours[:, 50:].ravel(), theirs[:, 50:].ravel())[0, 1] > 0.9
    assert model.card.data["teacher"] == {
        "digest": teacher.digest,
        "protocol": {"name": "l5pc", "n_steps": 400, "scale": 0.3},
        "trials": 24,
        "seed": 3,
    }
    assert model.card.recipe["name"] == "distilled"
    assert (run.history[-1]["loss"]) < run.history[0]["loss"]


def test_a_teacher_that_moved_is_given_to_resume_and_another_is_refused(
    toy_data, toy_teacher, tmp_path
) -> None:
    here = Path(shutil.copy(toy_teacher, tmp_path / "here.safetensors"))
    trainer = _trainer(toy_data, here, tmp_path / "run")
    trainer.save()
    moved = here.rename(tmp_path / "there.safetensors")
    with pytest.raises(DataError, match="if the teacher moved, give its place with --teacher"):
        surrogate.resume(tmp_path / "run", plots=False)
    model = load(toy_teacher)
    with torch.no_grad():
        model.stack.head.bias += 1
    save(tmp_path / "other.safetensors", model.stack, model.card)
    with pytest.raises(UsageError, match=r"other.safetensors is not the teacher of this run"):
        surrogate.resume(tmp_path / "run", teacher=tmp_path / "other.safetensors", plots=False)
    run = surrogate.resume(tmp_path / "run", teacher=moved, plots=False)
    assert run.result["epochs"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt_ms": 0.5}, r"bins of 1 ms, the teacher has 0.5 ms; give a teacher of the same"),
        (
            {"channels": Channels.of(excitatory=11, inhibitory=9)},
            r"channels of 10 excitatory, 10 inhibitory, the teacher has 11 excitatory, 9 inhib",
        ),
    ],
)
def test_teachers_of_other_neurons_are_refused(
    toy_data, toy_teacher, tmp_path, change, message
) -> None:
    model = load(toy_teacher)
    for name, value in change.items():
        setattr(model.card, name, value)
    save(tmp_path / "other.safetensors", model.stack, model.card)
    with pytest.raises(UsageError, match=message):
        _trainer(toy_data, tmp_path / "other.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        (False, {"recipe": "distilled"}, r"teacher_trials = 640 and there is no teacher; give one"),
        (True, {"recipe": "tuned"}, r"teacher_trials = 0 for the teacher .*; use --recipe dist"),
        (False, {"real_share": 0.5}, r"real_share = 0.5, finetune_epochs = 0 without a teacher"),
        (True, {"finetune_epochs": 4}, r"finetune_epochs = 4: expected fewer than epochs = 4"),
        (True, {"protocol_scale": 1.0}, r"due up to 1.5 spikes per bin of 1 ms: expected less"),
    ],
)
def test_recipes_and_teachers_that_do_not_fit_are_refused(
    toy_data, toy_teacher, tmp_path, teacher, settings, message
) -> None:
    given = {"teacher": toy_teacher} | TAUGHT if teacher else {}
    if settings.get("recipe"):
        given = {"teacher": given["teacher"]} if teacher else {}
    with pytest.raises(UsageError, match=message):
        surrogate.train(toy_data, hidden="6-2", out=tmp_path / "run", **{**given, **settings})
    assert not (tmp_path / "run").exists()
