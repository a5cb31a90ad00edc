"""`surrogate.train` and `surrogate.resume`, as a notebook calls them."""

from __future__ import annotations

import dataclasses
import signal

import numpy as np
import pytest
import torch

import surrogate
from surrogate.errors import Interrupted, UsageError

SETTINGS = {"windows_per_epoch": 8, "batch_size": 4, "window_ms": 100, "burn_in_ms": 20}


def _train(toy_data, out, **changes) -> surrogate.TrainingRun:
    chosen = {"arch": "gru", "hidden": [6, 2], "epochs": 2, "plots": False, **SETTINGS, **changes}
    return surrogate.train(toy_data, out=out, **chosen)


def test_train_gives_a_model_that_predicts_and_shows_nothing_unasked(
    toy_data, tmp_path, capfd
) -> None:
    threads = torch.get_num_threads()
    run = _train(toy_data, tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert run.config.spec.sizes_text == "6-2"
    assert run.config.spec.input_size == 20
    assert run.result["epochs"] == 2 == len(run.history)
    probability, voltage = run.model.predict(run.dataset)
    assert probability.shape == voltage.shape == (12, 400)
    loaded = surrogate.load(run.model_path)
    np.testing.assert_array_equal(loaded.predict(run.dataset)[0], probability)


def test_progress_is_shown_when_asked_or_handed_to_a_callable(toy_data, tmp_path, capfd) -> None:
    _train(toy_data, tmp_path / "shown", progress=True)
    shown = capfd.readouterr().err
    for text in ("gru 6-2 on", "epoch   2/2", "evaluating on 2 validation trials"):
        assert text in shown
    seen = []
    run = _train(toy_data, tmp_path / "told", progress=seen.append)
    assert [one.step for one in seen] == [1, 2, 3, 4]
    assert [one.metrics for one in seen if one.metrics] == run.history


@pytest.mark.parametrize("name", ["model.safetensors", "result.json"])
def test_what_a_finished_run_has_lost_is_made_again_and_said(name, toy_data, tmp_path, capsys):
    run = _train(toy_data, tmp_path / "run")
    weights = run.model.state_dict()
    damaged = bytearray((run.path / name).read_bytes())
    damaged[-9] ^= 1
    (run.path / name).write_bytes(damaged)
    again = surrogate.resume(run.path, plots=False, progress=True)
    assert f"{run.path}: its result or model file is damaged" in capsys.readouterr().err
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert again.result["validation"]["roc_auc"] == run.result["validation"]["roc_auc"]


def test_an_interrupted_call_is_resumed_to_the_same_weights(toy_data, tmp_path) -> None:
    whole = _train(toy_data, tmp_path / "whole")

    def interrupt(progress) -> None:
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 3 of 4"):
        _train(toy_data, tmp_path / "stopped", progress=interrupt)
    resumed = surrogate.resume(tmp_path / "stopped", plots=False)
    for name, value in whole.model.stack.state_dict().items():
        assert torch.equal(value, resumed.model.stack.state_dict()[name]), name
    again = surrogate.resume(tmp_path / "stopped")
    assert again.result == resumed.result
    assert dataclasses.asdict(again.config) == dataclasses.asdict(whole.config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epocs": 3}, "unknown recipe key 'epocs': did you mean 'epochs'"),
        ({"seed": -1}, "run seed = -1: expected at least 0"),
        ({"labels": "rounded"}, "run labels = 'rounded': expected 'exact' or 'legacy'"),
        ({"hidden": [6.5, 2]}, "expected whole numbers from 1 to 512"),
        ({"arch": "elman"}, "unknown arch 'elman'"),
        ({"device": "tpu"}, "device 'tpu': expected cpu or cuda"),
    ],
)
def test_mistakes_are_usage_errors_and_leave_nothing(toy_data, tmp_path, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        _train(toy_data, tmp_path / "run", **changes)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_not_overwritten(toy_data, tmp_path) -> None:
    _train(toy_data, tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match="already holds a run; continue it with"):
        _train(toy_data, tmp_path / "run", epochs=1)
