"""A grid whose experiments train together: results as alone, whatever happens to one of them."""

from __future__ import annotations

import threading

import pytest
import torch

from helpers.grid import (
    InlineEngine,
    assert_same_result,
    small_grid,
    starts,
    surrogate_command,
    take,
    take_together,
)
from surrogate.grid import task
from surrogate.grid.folder import ExperimentFolder
from surrogate.grid.lease import Lease, read_lease
from surrogate.grid.local import LocalEngine
from surrogate.grid.scheduler import run_grid
from surrogate.grid.task import Outcome
from surrogate.report.runs import read_run
from surrogate.training import loop as training_loop
from surrogate.training import run


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
    assert (engine.workers, engine.together) == (1, 2)
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


def test_what_is_done_or_in_other_hands_is_left_out(toy_data, tmp_path) -> None:
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
        "training with others: MemoryError: by the test; trying it alone"
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


def test_an_error_of_one_alone_is_recorded_at_once(toy_data, tmp_path, monkeypatch) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    name = next(iter(ledger.rows))

    def broken(*arguments):
        raise ValueError("by the test")

    monkeypatch.setattr(task, "train_together", broken)
    assert take(place, name, toy_data).status == "failed"
    assert place.experiment(name).failure()["error"] == "ValueError: by the test"
    # As long as nobody puts it back it is not run again.
    monkeypatch.undo()
    assert take(place, name, toy_data) == Outcome(name, "failed", "ValueError: by the test")
    assert len(starts(place, name)) == 1


def test_a_failure_is_recorded_while_nobody_else_can_take_the_experiment(
    toy_data, tmp_path, monkeypatch
) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    name = next(iter(ledger.rows))
    held: list[bool] = []
    original = ExperimentFolder.write_failure

    def look(folder, *arguments) -> None:
        held.append(read_lease(folder.path) is not None)
        original(folder, *arguments)

    def broken(*arguments, **options):
        raise ValueError("by the test")

    monkeypatch.setattr(ExperimentFolder, "write_failure", look)
    monkeypatch.setattr(task, "finish", broken)
    assert take(place, name, toy_data).status == "failed"
    assert held == [True]


def test_a_share_of_the_time_is_each_experiments_own(toy_data, tmp_path, monkeypatch) -> None:
    """On a clock of our own: 1 s for what two take together, 10 s to evaluate each."""
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    now = [0.0]
    step, evaluate = training_loop._take_step, task.finish

    def stepping(readings):
        now[0] += 1.0
        return step(readings)

    def evaluating(*arguments, **options):
        now[0] += 10.0
        return evaluate(*arguments, **options)

    monkeypatch.setattr(training_loop, "_take_step", stepping)
    monkeypatch.setattr(task, "finish", evaluating)
    monkeypatch.setattr(training_loop.time, "monotonic", lambda: now[0])
    first, second = ledger.rows
    steps = ledger.rows[first].experiment.recipe.steps
    _stop_at_the_last_step(place, first, toy_data)  # alone
    take_together(place, [first, second], toy_data)
    records = [place.experiment(name).done() for name in (first, second)]
    # The last step of the first is the second's first, who also waits for its evaluation.
    assert [record["seconds"] for record in records] == [steps + 10, steps + 20]
    assert [record["own_seconds"] for record in records] == [steps + 9.5, steps + 9.5]
    row = ledger.rows[first]
    # Which is what a report tells and adds up.
    assert read_run(row.experiment, place.experiment(first)).seconds == steps + 9.5


def test_a_gpu_takes_what_its_free_memory_holds(toy_data, tmp_path, monkeypatch) -> None:
    _, ledger = small_grid(tmp_path / "g", toy_data)
    one = next(iter(ledger.rows.values())).experiment
    memory = {"free": 0, "kept": 0}

    def empty_cache() -> None:
        memory["free"] += memory.pop("kept")

    monkeypatch.setattr(task, "default_provider", lambda device, spec: "triton")
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory["free"], 10**12))

    def fitting(sharing: int, free: int, kept: int = 0) -> int:
        memory.update(free=free, kept=kept)
        return task._fitting(one, 100, "cuda:0", sharing)

    many = fitting(1, 10**9)
    assert many > 10
    assert fitting(1, 0) == 1
    assert fitting(1, 4 * 10**8, kept=6 * 10**8) == many  # torch's own, from the task before
    assert fitting(2, 10**9) == pytest.approx(many / 2, abs=1)
    assert task._fitting(one, 100, "cpu", 1) >= 216
    monkeypatch.setattr(task, "default_provider", lambda device, spec: "torch")
    assert fitting(1, 10**9) == 1


@pytest.mark.parametrize("when", ["beginning", "evaluating"])
def test_out_of_memory_beside_others_is_tried_alone(toy_data, tmp_path, monkeypatch, when) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    first, second = ledger.rows
    target = (run, "Trainer") if when == "beginning" else (task, "finish")
    original = getattr(*target)
    calls = []

    def too_much(*arguments, **options):
        calls.append(arguments)
        # The second begins, or the first is evaluated, while the other is held.
        if len(calls) == (2 if when == "beginning" else 1):
            raise RuntimeError("by the test")  # which torch's allocators raise, too
        return original(*arguments, **options)

    monkeypatch.setattr(*target, too_much)
    if when == "evaluating":  # the first ends while the second goes on
        _stop_at_the_last_step(place, first, toy_data)
    outcomes = {one.hash: one for one in take_together(place, [first, second], toy_data)}
    lost, kept = (second, first) if when == "beginning" else (first, second)
    assert outcomes[lost].status == "died"
    assert "by the test; trying it alone" in str(outcomes[lost].message)
    assert place.experiment(lost).failure() is None
    assert outcomes[kept].status in ("done", "unstable")


def _stop_at_the_last_step(place, name, data) -> None:
    """Leave the experiment with all but its last step done."""
    stop = threading.Event()
    original = task._Work.note

    def note(work, progress) -> None:
        original(work, progress)
        if progress.step == progress.steps - 1:
            stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task._Work, "note", note)
        (outcome,) = take_together(place, [name], data, stop)
    assert outcome.status == "interrupted"


def test_stopping_reaches_those_that_the_memory_did_not_hold(
    toy_data, tmp_path, monkeypatch
) -> None:
    rates = [0.003, 0.006, 0.01]
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=rates)
    monkeypatch.setattr(task, "_fitting", lambda *_: 2)
    original = task._Work.note

    def lost(work, progress) -> None:  # as if another process had taken the experiment over
        original(work, progress)
        work.lost.set()

    monkeypatch.setattr(task._Work, "note", lost)
    first, second, third = ledger.rows
    outcomes = task.take_up(
        str(place.path), [first, second, third], str(toy_data), "cpu", threading.Event()
    )
    assert [one.status for one in outcomes] == ["interrupted"] * 3
    assert len(starts(place, first)) == len(starts(place, second)) == 1
    assert not place.experiment(third).path.exists()


def test_what_was_interrupted_goes_on_together(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    engine = InlineEngine(place, toy_data, together=2)
    names = list(ledger.rows)

    def report(outcome) -> None:
        engine.instead.clear()

    engine.instead = {name: lambda name=name: Outcome(name, "interrupted") for name in names}
    run_grid(names, ledger, engine, threading.Event(), report)
    assert [sorted(task) for task in engine.tasks] == [sorted(names)] * 2
    for name in names:
        assert_same_result(place, alone, name)


def test_what_another_process_runs_is_waited_for_not_taken(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    mine, others = ledger.rows
    lease = Lease.acquire(place.experiment(others).path, threading.Event())
    assert lease is not None
    ledger.refresh([others])
    engine = InlineEngine(place, toy_data)
    seen: list[list[str]] = []

    def report(outcome) -> None:
        seen.append(list(engine.submitted))
        if ledger.rows[mine].finished is not None and lease is not None:
            lease.release()

    run_grid(list(ledger.rows), ledger, engine, threading.Event(), report)
    assert [mine] in seen  # the other one was not touched while it was in other hands
    assert engine.submitted == [mine, others]
    assert_same_result(place, alone, others)


def test_a_worker_that_leaves_between_two_looks_does_no_harm(alone, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")

    class Leaving(InlineEngine):
        looks = 0

        @property
        def idle(self) -> int:
            self.looks += 1
            return 1 if self.looks == 1 else -1

    engine = Leaving(place, toy_data, together=2)
    engine.queue = 1

    def report(outcome) -> None:
        engine.looks = 0

    run_grid(list(ledger.rows), ledger, engine, threading.Event(), report)
    assert engine.tasks == [list(ledger.rows)]


def test_no_worker_takes_what_others_could_do_meanwhile(alone, toy_data, tmp_path) -> None:
    rates = [0.003, 0.006, 0.01]
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=rates)
    engine = InlineEngine(place, toy_data, together=12, workers=2)
    _run(ledger, engine)
    assert [len(names) for names in engine.tasks] == [2, 1]


def test_what_ended_before_its_worker_died_is_not_run_again(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, arch="rnn")
    engine = InlineEngine(place, toy_data, together=2)
    names = list(ledger.rows)

    def die(name) -> Outcome:
        if name == names[0]:
            take(place, name, toy_data)
        else:
            place.experiment(name).write_failure("by the test")
        return Outcome(name, "died", "killed")

    engine.instead = {name: lambda name=name: die(name) for name in names}
    seen = {one.hash: one for one in _run(ledger, engine)}
    assert engine.tasks == [names]
    assert seen[names[0]].status in ("done", "unstable")
    assert (seen[names[1]].status, seen[names[1]].message) == ("failed", "by the test")
