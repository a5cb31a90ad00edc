"""A grid whose experiments train together: results as alone, whatever happens to one of them."""

from __future__ import annotations

import threading

import pytest
from grid_tools import (
    InlineEngine,
    assert_same_result,
    small_grid,
    starts,
    surrogate_command,
    take,
    take_together,
)

from surrogate.grid import task
from surrogate.grid.lease import Lease
from surrogate.grid.local import LocalEngine
from surrogate.grid.scheduler import run_grid
from surrogate.grid.task import Outcome


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def alone(toy_data, tmp_path_factory):
    """The grid, one experiment after the other."""
    place, ledger = small_grid(tmp_path_factory.mktemp("grids") / "alone", toy_data)
    for name in ledger.rows:
        take(place, name, toy_data)
    return place


def _run(ledger, engine) -> list[Outcome]:
    seen: list[Outcome] = []
    run_grid(
        list(ledger.rows),
        ledger,
        engine,
        threading.Event(),
        lambda outcome: seen.append(outcome) if outcome else None,
    )
    return seen


def test_experiments_of_one_configuration_are_one_task(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    engine = InlineEngine(place, toy_data, together=3)
    _run(ledger, engine)
    configuration = {name: row.experiment.configuration for name, row in ledger.rows.items()}
    assert sorted(len(names) for names in engine.tasks) == [2, 2]
    assert all(len({configuration[name] for name in names}) == 1 for names in engine.tasks)
    for name in ledger.rows:
        assert_same_result(place, alone, name)
        assert place.experiment(name).done()["together"] == 2
        assert alone.experiment(name).done()["together"] == 1


def test_local_workers_train_together(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    engine = LocalEngine(place.path, str(toy_data), ["cpu"], together=2)
    assert engine.slots == 2
    assert {one.status for one in _run(ledger, engine)} <= {"done", "unstable"}
    for name in ledger.rows:
        assert_same_result(place, alone, name)
        assert place.experiment(name).done()["together"] == 2


def test_the_command_takes_how_many(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    command = ("grid", "run", "--out", place.path, "--device", "cpu", "--jobs", "1", "--json")
    assert surrogate_command(*command, "--together", "2").exit_code == 0
    for name in ledger.rows:
        assert_same_result(place, alone, name)
        assert place.experiment(name).done()["together"] == 2


def test_what_is_done_or_in_other_hands_is_left_out(alone, toy_data, tmp_path) -> None:
    rates = [0.003, 0.006, 0.01]
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=rates)
    finished, taken, free = ledger.rows
    done = take(place, finished, toy_data)
    lease = Lease.acquire(place.experiment(taken).path, threading.Event())
    assert lease is not None
    outcomes = {one.hash: one.status for one in take_together(place, list(ledger.rows), toy_data)}
    assert outcomes[finished] == done.status
    assert outcomes[taken] == "busy"
    assert outcomes[free] in ("done", "unstable")
    assert len(starts(place, finished)) == 1
    assert place.experiment(free).done()["together"] == 1


def test_one_that_cannot_begin_fails_and_the_others_go_on(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    broken, sound = list(ledger.rows)[:2]
    home = place.experiment(broken).path
    home.mkdir(parents=True)
    (home / "run.json").mkdir()  # which cannot be read
    outcomes = {one.hash: one.status for one in take_together(place, [broken, sound], toy_data)}
    assert outcomes[broken] == "failed"
    assert "run.json" in place.experiment(broken).failure()["error"]
    assert outcomes[sound] in ("done", "unstable")
    assert_same_result(place, alone, sound)


def test_what_fails_together_is_tried_alone(alone, toy_data, tmp_path, monkeypatch) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    original = task.train_together

    def too_much(trainers, *arguments):
        if len(trainers) > 1:
            raise MemoryError("by the test")
        return original(trainers, *arguments)

    monkeypatch.setattr(task, "train_together", too_much)
    engine = InlineEngine(place, toy_data, together=2)
    seen = _run(ledger, engine)
    assert [len(names) for names in engine.tasks] == [2, 1, 1]
    assert {one.message for one in seen if one.status == "died"} == {
        "training 2 together: MemoryError: by the test; trying it alone"
    }
    assert ledger.counts()["failed"] == 0
    for name in ledger.rows:
        assert_same_result(place, alone, name)


def test_those_that_died_together_go_on_alone(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    deadly, mate = ledger.rows
    engine = InlineEngine(place, toy_data, together=2)
    killed = Outcome(deadly, "died", "killed"), Outcome(mate, "died", "killed")
    engine.instead = {deadly: lambda: killed[0], mate: lambda: killed[1]}
    seen = []

    def report(outcome) -> None:
        seen.append(outcome)
        engine.instead.pop(mate, None)  # the one is at fault, not the other

    run_grid(list(ledger.rows), ledger, engine, threading.Event(), report)
    assert [deadly, mate] == engine.tasks[0]
    assert [mate] in engine.tasks
    assert ledger.rows[deadly].status == "failed"
    assert_same_result(place, alone, mate)
    assert engine.submitted.count(deadly) == 3
