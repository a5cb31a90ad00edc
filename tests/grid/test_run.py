"""Running a grid: every experiment once, as `surrogate train` would run it, whatever fails."""

from __future__ import annotations

import json
import resource
import signal
import threading

import numpy as np
import pytest

import surrogate
from helpers.grid import (
    InlineEngine,
    assert_same_result,
    small_grid,
    starts,
    surrogate_command,
    take,
    weights,
)
from surrogate.errors import DataError, Interrupted
from surrogate.grid import task
from surrogate.grid.ledger import Ledger
from surrogate.grid.scheduler import run_grid
from surrogate.grid.task import Outcome
from surrogate.training import run


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _run(ledger: Ledger, engine: InlineEngine, stop: threading.Event | None = None) -> list:
    seen: list[Outcome] = []
    run_grid(
        list(ledger.rows),
        ledger,
        engine,
        stop or threading.Event(),
        lambda outcome: seen.append(outcome) if outcome else None,
    )
    return seen


@pytest.fixture(scope="module")
def finished(toy_data, tmp_path_factory):
    """A grid that was run undisturbed."""
    place, ledger = small_grid(tmp_path_factory.mktemp("grids") / "undisturbed", toy_data)
    engine = InlineEngine(place, toy_data)
    _run(ledger, engine)
    assert engine.closed
    return place, ledger


def test_a_finished_experiment_says_what_it_was_and_what_it_found(finished, toy_data) -> None:
    place, ledger = finished
    assert sum(ledger.counts()[status] for status in ("done", "unstable")) == 4
    for name, row in ledger.rows.items():
        home = place.experiment(name)
        done = home.done()
        assert done["hash"] == name
        assert done["experiment"] == row.experiment.axes()
        assert done["experiment"]["class_weight"] is None
        assert done["parameters"] == row.experiment.spec.parameter_count
        assert done["windows"] == 3 * 8
        assert done["provider"] == surrogate.kernels.default_provider("cpu")
        assert done["seconds"] > 0
        assert done["scores"]["valid"] == home.run.stored_result()["validation"]
        assert row.roc_auc == done["scores"]["valid"]["roc_auc"]
        assert not list(home.path.glob("checkpoint*"))
        assert not (home.path / "lease.json").exists()
        assert len(starts(place, name)) == 1


def test_an_experiment_is_what_train_makes_of_the_same_choices(finished, toy_data, tmp_path):
    place, ledger = finished
    name, row = next(iter(ledger.rows.items()))
    result = surrogate_command(
        *(
            "train",
            "--data",
            toy_data,
            "--out",
            tmp_path / "run",
            "--arch",
            row.experiment.spec.arch,
        ),
        *("--hidden", "4-2", "--recipe", "blog", "--reuse-windows", "--no-plots"),
        *("--learning-rate", row.experiment.recipe.learning_rate, "--class-weight", "none"),
        *("--set", "epochs=3", "--set", "windows_per_epoch=8", "--set", "batch_size=4"),
        *("--set", "window_ms=100"),
    )
    assert result.exit_code == 0, result.stderr
    trained = surrogate.load(tmp_path / "run" / "model.safetensors").stack.state_dict()
    for key, value in weights(place, name).items():
        assert np.array_equal(value, trained[key].numpy())


def test_what_is_finished_is_not_run_again(finished, toy_data) -> None:
    place, ledger = finished
    records = {name: place.experiment(name).path / "done.json" for name in ledger.rows}
    before = {name: record.read_bytes() for name, record in records.items()}
    name = next(iter(ledger.rows))
    assert take(place, name, toy_data).status == ledger.rows[name].status
    result = surrogate_command("grid", "run", "--out", place.path, "--json")
    assert result.exit_code == 0
    assert sum(result.json["counts"][status] for status in ("done", "unstable")) == 4
    for name, content in before.items():
        assert records[name].read_bytes() == content
        assert len(starts(place, name)) == 1


def test_a_begun_grid_is_finished_by_the_command(finished, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    *before, last = ledger.rows
    for name in before:
        take(place, name, toy_data)
    result = surrogate_command(
        *("grid", "run", "--out", place.path, "--jobs", "1", "--device", "cpu", "--json")
    )
    assert result.exit_code == 0, result.stderr
    assert "1 of 4 to run" in result.stderr
    assert f"{ledger.rows[last].experiment.name}: " in result.stderr
    assert [one["hash"] for one in result.json["experiments"]] == list(ledger.rows)
    for name in ledger.rows:
        assert len(starts(place, name)) == 1
        assert_same_result(place, finished[0], name)


def test_status_shows_the_ledger(finished) -> None:
    place, ledger = finished
    shown = surrogate_command("grid", "status", place.path, "--json").json
    assert shown["counts"] == ledger.counts()
    assert [one["hash"] for one in shown["experiments"]] == list(ledger.rows)
    text = surrogate_command("grid", "status", place.path).stdout
    assert "lstm 4-2" in text
    watched = surrogate_command("grid", "status", place.path, "--watch")
    assert watched.exit_code == 0  # all is done, so it ends


def test_one_failure_is_recorded_and_the_others_go_on(toy_data, tmp_path, monkeypatch) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    broken = list(ledger.rows)[1]
    monkeypatch.setattr(task, "finish", _failing(place.experiment(broken).path, task.finish))
    seen = _run(ledger, InlineEngine(place, toy_data))
    assert {one.hash for one in seen if one.status == "failed"} == {broken}
    counts = ledger.counts()
    assert (counts["failed"], counts["done"] + counts["unstable"]) == (1, 3)
    failure = place.experiment(broken).failure()
    assert failure["error"] == "ZeroDivisionError: by the test"
    assert failure["attempts"] == 1
    assert "Traceback" in failure["traceback"]
    status = surrogate_command("grid", "status", place.path).stdout
    assert f"failed {broken}" in status
    assert "ZeroDivisionError: by the test" in status

    again = surrogate_command("grid", "run", "--out", place.path)  # not without being asked
    assert again.exit_code == 1
    assert f"surrogate grid retry {place.path}" in again.stdout
    assert len(starts(place, broken)) == 1
    assert surrogate_command("grid", "retry", place.path, "0" * 16).exit_code == 2

    monkeypatch.undo()
    retried = surrogate_command("grid", "retry", place.path, "--json")
    assert retried.json["retried"] == [broken]
    assert place.experiment(broken).failure() is None
    assert take(place, broken, toy_data).status in ("done", "unstable")
    # Training was over when it failed: it went on from its last checkpoint.
    assert [one["step"] for one in starts(place, broken)] == [0, 6]


def _failing(path, finish):
    def fail(trainer, **keywords):
        if trainer.folder.path == path:
            raise ZeroDivisionError("by the test")
        return finish(trainer, **keywords)

    return fail


def test_a_loss_that_is_not_finite_is_unstable_not_failed(toy_data, tmp_path, monkeypatch) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    name = next(iter(ledger.rows))
    monkeypatch.setattr(run, "Trainer", _Poisoned)
    assert take(place, name, toy_data).status == "unstable"
    done = place.experiment(name).done()
    assert done["unstable_reason"] == "loss or gradient not finite at step 1"
    assert done["scores"] == {"valid": {}}
    ledger.refresh([name])
    assert ledger.rows[name].roc_auc is None


class _Poisoned(run.Trainer):
    def prepare_step(self, reading) -> None:
        for parameter in self.stack.parameters():
            parameter.data.fill_(float("nan"))
        super().prepare_step(reading)


def test_an_experiment_whose_workers_keep_dying_fails_alone(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    deadly = next(iter(ledger.rows))
    engine = InlineEngine(place, toy_data)
    engine.instead[deadly] = lambda: Outcome(deadly, "died", "its worker was killed by SIGKILL")
    _run(ledger, engine)
    assert engine.submitted.count(deadly) == 3
    assert ledger.rows[deadly].error == "its worker was killed by SIGKILL, 3 times"
    assert ledger.counts()["pending"] == 0


def test_an_experiment_in_other_hands_is_waited_for_and_not_run_twice(
    toy_data, tmp_path, monkeypatch
) -> None:
    from surrogate.grid import scheduler
    from surrogate.grid.lease import Lease

    monkeypatch.setattr(scheduler, "_LOOK_S", 0.05)
    place, ledger = small_grid(tmp_path / "g", toy_data)
    taken, abandoned = list(ledger.rows)[:2]
    leases = {}
    for name in (taken, abandoned):
        leases[name] = Lease.acquire(place.experiment(name).path, threading.Event())
        assert leases[name] is not None
    engine = InlineEngine(place, toy_data)
    looks = []

    def look(outcome: Outcome | None) -> None:
        looks.append(outcome)
        if len(looks) == 20:  # the other process ends: one experiment is finished, one is not
            leases[abandoned].release()
            leases[taken].release()
            take(place, taken, toy_data)

    run_grid(list(ledger.rows), ledger, engine, threading.Event(), look)
    assert {one.hash for one in looks if one and one.status == "busy"} == {taken, abandoned}
    assert ledger.counts()["pending"] == ledger.counts()["running"] == 0
    assert all(len(starts(place, name)) == 1 for name in ledger.rows)


def test_stopping_saves_and_the_grid_goes_on_bit_for_bit(finished, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    stop = threading.Event()
    first, second = list(ledger.rows)[:2]
    engine = InlineEngine(place, toy_data)

    def stopped_midway() -> Outcome:
        stop.set()
        return take(place, second, toy_data, _StopAfter(1))

    engine.instead[second] = stopped_midway
    with pytest.raises(Interrupted):
        _run(ledger, engine, stop)
    assert engine.closed
    ledger.refresh(ledger.rows)
    assert ledger.rows[first].status in ("done", "unstable")
    assert ledger.rows[second].status == "pending"
    _run(ledger, InlineEngine(place, toy_data))
    assert [one["step"] for one in starts(place, second)] == [0, 1]
    for name in ledger.rows:
        assert_same_result(place, finished[0], name)


@pytest.mark.parametrize("damage", ["newest", "both"])
def test_a_corrupted_checkpoint_falls_back_and_says_so(damage, finished, toy_data, tmp_path):
    place, ledger = small_grid(tmp_path / "g", toy_data)
    name = next(iter(ledger.rows))
    home = place.experiment(name)
    _stop_after(5, place, name, toy_data)
    for path in home.path.glob("checkpoint*.pt"):
        if damage == "both" or path.name == "checkpoint.pt":
            path.write_bytes(path.read_bytes()[:-400])
    outcome = take(place, name, toy_data)
    assert outcome.status in ("done", "unstable")
    assert outcome.message is not None
    if damage == "newest":
        assert "checkpoint.pt is damaged" in outcome.message
        assert starts(place, name)[-1]["step"] == 4
    else:
        assert outcome.message.count("is damaged") == 2
        assert outcome.message.endswith("; starting again")
        assert starts(place, name)[-1]["step"] == 0
    assert starts(place, name)[-1]["note"] == outcome.message
    assert_same_result(place, finished[0], name)


class _StopAfter(threading.Event):
    """Set from the ``steps``-th step on: it is looked at before the first and after each."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps + 1

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0 or super().is_set()


def _stop_after(steps, place, name, data) -> None:
    assert take(place, name, data, _StopAfter(steps)).status == "interrupted"


def test_a_full_disk_stops_the_grid_and_marks_nothing_as_failed(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    engine = InlineEngine(place, toy_data)
    second = list(ledger.rows)[1]

    def no_room_for_a_checkpoint() -> Outcome:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        try:
            return take(place, second, toy_data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    engine.instead[second] = no_room_for_a_checkpoint
    with pytest.raises(DataError, match=r"checkpoint.pt: .*; what is finished is kept, run the"):
        _run(ledger, engine)
    assert engine.closed
    assert len(engine.submitted) == 2
    assert ledger.counts()["failed"] == 0
    _run(ledger, InlineEngine(place, toy_data))
    assert ledger.counts()["pending"] == 0
    assert len(starts(place, engine.submitted[0])) == 1


def test_a_damaged_record_counts_as_none(finished, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    name = next(iter(ledger.rows))
    home = place.experiment(name).path
    home.mkdir(parents=True)
    for text in ("{", "[]", json.dumps({"status": "done"})):
        (home / "done.json").write_text(text)
        (home / "failed.json").write_text(text)
        ledger.refresh([name])
        assert ledger.rows[name].status == "pending"
    assert take(place, name, toy_data).status in ("done", "unstable")
    assert_same_result(place, finished[0], name)
