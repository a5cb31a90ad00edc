"""Training runs of one configuration together: each becomes what it would have become alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from helpers.together import assert_same_runs, train, trainers
from surrogate.training.loop import train_together

SMALL = {"windows_per_epoch": 8, "batch_size": 4, "window_ms": 100, "epochs": 3}


@pytest.mark.parametrize(
    ("arch", "overrides"),
    [("rnn", {}), ("gru", {"segment_jitter": 0.5}), ("lstm", {"weight_average": 0.9})],
)
def test_runs_together_are_bit_equal_to_runs_alone(toy_data, tmp_path, arch, overrides) -> None:
    settings = {**SMALL, **overrides}
    together = trainers(toy_data, tmp_path / "together", arch, (6, 2), **settings)
    train(*together)
    alone = trainers(toy_data, tmp_path / "alone", arch, (6, 2), **settings)
    for trainer in alone:
        train(trainer)
    assert_same_runs(together, alone)


def test_runs_at_different_steps_go_on_together_and_end_one_by_one(toy_data, tmp_path) -> None:
    ahead = trainers(toy_data, tmp_path / "together", "gru", (6, 2), **SMALL)[1]
    for _ in train_together([ahead], lambda *_: None, lambda trainer: trainer.step == 3):
        assert not ahead.done
    together = trainers(toy_data, tmp_path / "together", "gru", (6, 2), **SMALL)
    assert [trainer.step for trainer in together] == [0, 3, 0]
    running = train_together(together, lambda *_: None, lambda _: False)
    assert next(running) == (together[1], None)
    assert [trainer.step for trainer in together] == [3, 6, 3]
    assert set(running) == {(together[0], None), (together[2], None)}
    alone = trainers(toy_data, tmp_path / "alone", "gru", (6, 2), **SMALL)
    for trainer in alone:
        train(trainer)
    assert_same_runs(together, alone)


def test_one_that_is_stopped_saves_and_the_others_go_on(toy_data, tmp_path) -> None:
    together = trainers(toy_data, tmp_path / "runs", "rnn", (6, 2), **SMALL)
    stopped = together[2]
    ended = list(
        train_together(together, lambda *_: None, lambda one: one is stopped and stopped.step == 1)
    )
    assert ended[0] == (stopped, None)
    assert [trainer.done for trainer in together] == [True, True, False]
    assert trainers(toy_data, tmp_path / "runs", "rnn", (6, 2), **SMALL)[2].step == 1


def test_one_whose_loss_is_not_finite_leaves_the_others_alone(toy_data, tmp_path) -> None:
    together = trainers(toy_data, tmp_path / "together", "lstm", (6, 2), **SMALL)

    def poison(trainer, progress) -> None:
        if trainer is together[0] and progress.step == 3:
            trainer.stack.layers[0].bias_ih_l0.data.fill_(torch.nan)

    assert next(train_together(together, poison, lambda _: False)) == (together[0], None)
    assert together[0].failure == "loss or gradient not finite at step 4"
    train(*together[1:])
    alone = trainers(toy_data, tmp_path / "alone", "lstm", (6, 2), **SMALL)[1:]
    for trainer in alone:
        train(trainer)
    assert_same_runs(together[1:], alone)


@pytest.mark.parametrize("place", ["read", "save", "end_epoch"])
def test_an_error_of_one_ends_it_alone(toy_data, tmp_path, monkeypatch, place) -> None:
    together = trainers(toy_data, tmp_path / "together", "gru", (6, 2), **SMALL)
    faulty = together[2]  # with a seed of its own

    def fail(*_):
        raise OSError(f"cannot {place}")

    monkeypatch.setattr(faulty, place, fail)
    ended = dict(train_together(together, lambda *_: None, lambda _: False))
    assert str(ended.pop(faulty)) == f"cannot {place}"
    assert list(ended.values()) == [None, None]
    alone = trainers(toy_data, tmp_path / "alone", "gru", (6, 2), **SMALL)[:2]
    for trainer in alone:
        train(trainer)
    assert_same_runs(together[:2], alone)


def test_who_has_ended_belongs_to_the_caller_alone(toy_data, tmp_path) -> None:
    together = trainers(toy_data, tmp_path / "runs", "rnn", (6, 2), **SMALL)
    refused = weakref.ref(together[0])
    running = train_together(
        list(together), lambda *_: None, lambda one: one is refused() and one.step == 1
    )
    trainer, _ = next(running)
    assert trainer is refused()
    del trainer, together[0]
    assert next(running) == (together[0], None)
    gc.collect()
    assert refused() is None
    running.close()


def test_windows_that_several_runs_see_are_read_once(toy_data, tmp_path, monkeypatch) -> None:
    together = trainers(toy_data, tmp_path / "runs", "rnn", (6, 2), **SMALL)
    read = []
    original = type(together[0]).read

    def counting(trainer, step):
        read.append((trainer.config.seed, step))
        return original(trainer, step)

    monkeypatch.setattr(type(together[0]), "read", counting)
    train(*together)
    assert sorted(read) == [(seed, step) for seed in (0, 1) for step in range(6)]


def test_runs_that_do_not_fit_together_are_refused(toy_data, tmp_path) -> None:
    one = trainers(toy_data, tmp_path / "one", "rnn", (6, 2), **SMALL)[0]
    for name, sizes, changes in (("sizes", (5, 2), {}), ("windows", (6, 2), {"window_ms": 50})):
        settings = {**SMALL, **changes}
        other = trainers(toy_data, tmp_path / name, "rnn", sizes, **settings)[0]
        with pytest.raises(ValueError, match="one stack and one shape of batch"):
            next(train_together([one, other], lambda *_: None, lambda _: False))
