"""What experiments cost, how long a grid will take, and what its workers take together."""

from __future__ import annotations

import json
import math
import time
from collections import deque

import numpy as np
import pytest

from helpers.grid import SMALL, experiment, small_grid
from surrogate import datasets
from surrogate.grid import cost
from surrogate.grid.experiment import Experiment
from surrogate.grid.grid import plan_grid
from surrogate.grid.ledger import Row
from surrogate.grid.packs import take_pack
from surrogate.grid.request import Request
from surrogate.grid.time_left import in_order, seconds_left
from surrogate.kernels import StackSpec
from surrogate.training import run
from surrogate.training.recipe import load_recipe
from surrogate.training.trainer import Trainer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_calibration_is_measured_once_and_kept(toy_data, tmp_path, monkeypatch) -> None:
    place, _ = small_grid(tmp_path / "g", toy_data)
    experiments = place.grid().experiments()
    timed: list[str] = []
    with datasets.open(toy_data) as dataset:
        first = cost.calibrate(experiments, dataset, "cpu", timed.append)
        assert timed == ["rnn 4-2", "lstm 4-2"]
        assert cost.calibrate(experiments, dataset, "cpu", timed.append) == first
        assert len(timed) == 2
        path = tmp_path / "cache" / "surrogate" / "calibration.json"
        kept = json.loads(path.read_text())
        damage = [
            {"time": 0},  # more than a week ago
            {"time": time.time() + 3600},
            {"time": None},
            {"step": "x"},
            {"step": 0},
            {"step": math.nan},
            {"epoch_end": math.nan},
            {"finish": math.inf},
            {"finish": -1},
        ]
        for change in damage:
            path.write_text(json.dumps({key: entry | change for key, entry in kept.items()}))
            timed.clear()
            cost.calibrate(experiments[:1], dataset, "cpu", timed.append)
            assert timed == ["rnn 4-2"], change
        for text in ("[]", "{", json.dumps(dict.fromkeys(kept, 3))):
            path.write_text(text)
            timed.clear()
            cost.calibrate(experiments[:1], dataset, "cpu", timed.append)
            assert timed == ["rnn 4-2"], text
    assert all(seconds > 0 for seconds in first.values())


def test_what_was_timed_before_an_interrupt_is_kept(toy_data, tmp_path) -> None:
    place, _ = small_grid(tmp_path / "g", toy_data)
    experiments = place.grid().experiments()
    timed: list[str] = []

    def second(name: str) -> None:
        timed.append(name)
        if len(timed) == 2:
            raise KeyboardInterrupt

    with datasets.open(toy_data) as dataset:
        with pytest.raises(KeyboardInterrupt):
            cost.calibrate(experiments, dataset, "cpu", second)
        timed.clear()
        cost.calibrate(experiments, dataset, "cpu", timed.append)
    assert timed == ["lstm 4-2"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 2),
        ("window_ms", 50),
        ("windows_per_epoch", 16),
        ("event_drop", 0.1),
        ("segment_jitter", 0.1),
    ],
)
def test_calibration_is_of_one_recipe(toy_data, tmp_path, key, value) -> None:
    timed: list[str] = []
    with datasets.open(toy_data) as dataset:
        for index, change in enumerate(({}, {key: value}, {})):
            changes = {"arch": "rnn", "set": {**SMALL["set"], **change}}
            place, _ = small_grid(tmp_path / str(index), toy_data, **changes)
            cost.calibrate(place.grid().experiments()[:1], dataset, "cpu", timed.append)
    assert timed == ["rnn 4-2"] * 2


def test_calibration_tells_step_epoch_end_and_evaluation_apart(
    toy_data, tmp_path, monkeypatch
) -> None:
    """On a clock of our own: 2 s a step, 7 s to validate an epoch, 30 s to evaluate at the end."""
    now = [0.0]

    class Timed(Trainer):
        def learn(self, *losses):
            now[0] += 2.0
            return super().learn(*losses)

        def end_epoch(self, *outputs):
            now[0] += 7.0
            super().end_epoch(*outputs)

    def evaluate(trainer, plots):
        now[0] += 30.0

    monkeypatch.setattr(run, "Trainer", Timed)
    monkeypatch.setattr(cost, "finish", evaluate)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost.time, "process_time", lambda: now[0])
    # Epochs of two steps, in three steps and in one epoch of many.
    for windows in (8, 400):
        changes = {"arch": "rnn", "set": {**SMALL["set"], "windows_per_epoch": windows}}
        place, _ = small_grid(tmp_path / str(windows), toy_data, **changes)
        (one, *_) = place.grid().experiments()
        with datasets.open(toy_data) as dataset:
            found = cost.calibrate([one], dataset, "cpu")[one.hash]
        steps, epochs = one.recipe.steps, one.recipe.epochs
        assert found == pytest.approx(2 * steps + 7 * epochs + 30, rel=0.05)


def test_a_longer_schedule_costs_in_proportion() -> None:
    step = cost.StepCost(step=0.1, epoch_end=0.05, finish=2.0)
    short = experiment(recipe=load_recipe("blog", "rnn", {"epochs": 10}))
    long = experiment(recipe=load_recipe("blog", "rnn", {"epochs": 20}))
    assert step.seconds(long) - 2 == pytest.approx(2 * (step.seconds(short) - 2))
    assert step.seconds(short) == pytest.approx(40 * 0.1 * 1.03 + 10 * 0.05 + 2)


def _many() -> list[Experiment]:
    recipes = [load_recipe("blog", "rnn", {"learning_rate": rate}) for rate in (0.001, 0.01)]
    return [
        experiment(recipe=recipe, spec=StackSpec("rnn", sizes, 1278))
        for sizes in ((4, 2), (8, 2), (6, 2))
        for recipe in recipes
    ]


def test_one_of_each_configuration_runs_first_then_the_longest() -> None:
    experiments = _many()
    costs = {one.hash: float(one.spec.hidden_sizes[0]) for one in experiments}
    order = [one.spec.hidden_sizes[0] for one in in_order(experiments, costs)]
    assert order == [8, 6, 4, 8, 6, 4]


def test_time_left_follows_what_was_measured() -> None:
    experiments = _many()
    costs = {one.hash: 10.0 for one in experiments}
    rows = [Row(one, "pending") for one in experiments]
    assert seconds_left(rows, costs, workers=1) == pytest.approx(60)
    assert seconds_left(rows, costs, workers=3) == pytest.approx(20)
    # 4-2 took twice what was predicted: so, for want of better, will the others.
    rows[0] = Row(experiments[0], "done", seconds=20.0, progress=1.0, finished=1.0)
    assert seconds_left(rows, costs, workers=1) == pytest.approx(100)
    # 8-2, half done after 5 s, takes what was predicted, and 6-2 the mean of both.
    rows[2] = Row(experiments[2], "running", seconds=5.0, progress=0.5)
    assert seconds_left(rows, costs, workers=1) == pytest.approx(20 + 5 + 10 + 2 * 15)
    # What failed is not waited for; what runs beyond our slots is.
    rows[4] = Row(experiments[4], "failed", error="broken")
    assert seconds_left(rows, costs, workers=1) == pytest.approx(20 + 5 + 10 + 15)
    # What was finished before anyone predicted anything tells nothing, and does no harm.
    known = {one.hash: 10.0 for one in experiments[1:]}
    assert seconds_left(rows, known, workers=1) == pytest.approx(10 + 5 + 10 + 10)
    done = [Row(one, "done", 3.0, 1.0, finished=2.0) for one in experiments]
    assert seconds_left(done, costs, workers=2) == 0


def test_time_left_reckons_with_what_ended_early() -> None:
    experiments = _many()[:2]
    costs = {one.hash: 100.0 for one in experiments}
    waiting = Row(experiments[1], "pending")
    # Unstable after a quarter of its steps, at twice the time that was predicted.
    early = Row(experiments[0], "unstable", seconds=50.0, progress=0.25, finished=1.0)
    assert seconds_left([early, waiting], costs, workers=1) == pytest.approx(200)
    # A few steps, beside the time for evaluation, say nothing.
    early = Row(experiments[0], "unstable", seconds=25.0, progress=0.06, finished=1.0)
    assert seconds_left([early, waiting], costs, workers=1) == pytest.approx(100)
    # One that had learnt enough after half of its steps: the next may, too.
    early = Row(experiments[0], "done", seconds=50.0, progress=0.5, finished=1.0)
    assert seconds_left([early, waiting], costs, workers=1) == pytest.approx(50)


def test_the_last_four_that_finished_count() -> None:
    """As when another machine goes on with a grid."""
    recipes = [load_recipe("blog", "rnn", {"learning_rate": n / 1000}) for n in range(1, 8)]
    experiments = [experiment(recipe=recipe) for recipe in recipes]
    costs = {one.hash: 100.0 for one in experiments}
    took = [300.0, 300.0, 50.0, 50.0, 50.0, 50.0]
    rows = [
        Row(one, "done", seconds, 1.0, finished=float(when))
        for when, (one, seconds) in enumerate(zip(experiments, took, strict=False))
    ]
    rows.append(Row(experiments[-1], "pending"))
    assert seconds_left(rows, costs, workers=1) == pytest.approx(50)


def test_time_left_reckons_with_all_that_run() -> None:
    recipes = [load_recipe("blog", "rnn", {"learning_rate": n / 1000}) for n in range(1, 13)]
    experiments = [experiment(recipe=recipe) for recipe in recipes]
    costs = {one.hash: 100.0 for one in experiments}
    rows = [
        Row(one, "running", seconds=50.0 * ratio, progress=0.5)
        for one, ratio in zip(experiments, (0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5), strict=False)
    ]
    rows += [Row(one, "pending") for one in experiments[8:]]
    # The mean, not that of the slowest four: 50 s more, then 100 s for those that wait.
    assert seconds_left(rows, costs, workers=8) == pytest.approx(150)


def test_time_left_reckons_with_what_trains_together() -> None:
    experiments = _many()
    costs = {one.hash: float(one.spec.hidden_sizes[0]) for one in experiments}
    rows = [Row(one, "pending") for one in experiments]
    # Three configurations of two experiments each, which take what one takes.
    assert seconds_left(rows, costs, workers=1, together=12) == pytest.approx(8 + 6 + 4)
    assert seconds_left(rows, costs, workers=1, together=1) == pytest.approx(2 * 18)
    # Two workers take a configuration each; the third falls to the one that is ready first.
    assert seconds_left(rows, costs, workers=2, together=12) == pytest.approx(6 + 4)
    # With more workers than configurations these are split.
    assert seconds_left(rows[:2], costs, workers=2, together=12) == pytest.approx(4)
    rows = [Row(one, "running", seconds=1.0, progress=0.04) for one in experiments[:2]]
    rows += [Row(one, "pending") for one in experiments[2:4]]
    left = seconds_left(rows, costs, workers=1, together=2)
    assert left == pytest.approx(0.96 * costs[experiments[0].hash] + costs[experiments[2].hash])


def test_time_left_knows_which_run_in_one_process() -> None:
    recipes = [load_recipe("blog", "rnn", {"learning_rate": n / 1000}) for n in range(1, 9)]
    experiments = [experiment(recipe=recipe) for recipe in recipes]
    costs = {one.hash: 100.0 for one in experiments}
    rows = [
        Row(one, "running", 1.0, 0.01, host="here", process=100 + index // 3)
        for index, one in enumerate(experiments[:6])
    ]
    rows += [Row(one, "pending") for one in experiments[6:]]
    # Two processes with three each: both workers are busy for 99 s, and one of them goes on.
    assert seconds_left(rows, costs, workers=2, together=3) == pytest.approx(99 + 100)


def test_packs_leave_no_worker_idle_and_no_pack_smaller_than_that_takes() -> None:
    def sizes(counts: dict[str, int], workers: int, together: int = 12) -> list[int]:
        kinds = {f"{kind}{n}": kind for kind, count in counts.items() for n in range(count)}
        waiting = deque(kinds)
        packs: list[list[str]] = []
        while waiting:
            packs.append(take_pack(waiting, kinds, max(1, workers - len(packs)), together))
        assert sorted(name for pack in packs for name in pack) == sorted(kinds)
        assert all(len({kinds[name] for name in pack}) == 1 for pack in packs)
        return [len(pack) for pack in packs]

    assert sizes({kind: 12 for kind in "abcdefghijklmnopqr"}, workers=4) == [12] * 18
    assert sizes({"a": 12}, workers=4) == [3, 3, 3, 3]
    assert sizes({"a": 12, "b": 12}, workers=4) == [6, 6, 6, 6]
    assert sizes({"a": 30}, workers=1) == [12, 12, 6]
    assert sizes({"a": 5, "b": 1}, workers=8, together=1) == [1] * 6


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_time_left_is_honest_after_the_first_tenth_of_a_grid(slots) -> None:
    """216 experiments on a clock of our own; predictions are wrong by up to twofold."""
    rng = np.random.default_rng(slots)
    with datasets.open() as sample:
        experiments = plan_grid(Request(), sample).experiments()
    base = {one.configuration: 10 ** rng.uniform(0, 2.5) for one in experiments}
    wrong = {name: 2 ** rng.uniform(-1, 1) for name in base}
    took = {one.hash: base[one.configuration] * rng.normal(1, 0.1) for one in experiments}
    costs = {one.hash: base[one.configuration] * wrong[one.configuration] for one in experiments}
    rows = {one.hash: Row(one, "pending") for one in experiments}
    waiting = [one.hash for one in in_order(experiments, costs)]
    now, started, seen = 0.0, {}, []
    while waiting or started:
        while waiting and len(started) < slots:
            started[waiting.pop(0)] = now
        now = min(began + took[name] for name, began in started.items())
        for name, began in list(started.items()):
            progress = (now - began) / took[name]
            if progress > 1 - 1e-9:
                del started[name]
                rows[name] = Row(rows[name].experiment, "done", took[name], 1.0, finished=now)
            else:
                rows[name] = Row(rows[name].experiment, "running", now - began, progress)
        seen.append((now, seconds_left(list(rows.values()), costs, slots)))
    tenth = [(when, left) for when, left in seen[len(seen) // 10 :] if when < 0.9 * now]
    assert len(tenth) > 50
    for when, left in tenth:
        assert left == pytest.approx(now - when, rel=0.2)
