"""Small grids for the tests, and an engine without processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import surrogate
from surrogate import datasets
from surrogate.cli.main import main
from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import GridFolder
from surrogate.grid.grid import plan_grid
from surrogate.grid.lease import read_lease
from surrogate.grid.ledger import Ledger
from surrogate.grid.request import read_request
from surrogate.grid.task import Outcome, take_up
from surrogate.kernels import StackSpec
from surrogate.training.recipe import load_recipe

SMALL = {
    "arch": ["rnn", "lstm"],
    "hidden": ["4-2"],
    "learning_rate": [0.003, 0.01],
    "class_weight": ["none"],
    "same_seeds": True,
    "reuse_windows": True,
    "set": {"epochs": 3, "windows_per_epoch": 8, "batch_size": 4, "window_ms": 100},
}


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout.splitlines()[-1])


def surrogate_command(*arguments: object) -> Result:
    """Run `surrogate` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def small_grid(folder: Path, data: Path, **changes: Any) -> tuple[GridFolder, Ledger]:
    """A grid of four experiments, or with ``changes``, begun in ``folder``."""
    with datasets.open(data) as dataset:
        grid = plan_grid(read_request({**SMALL, **changes}), dataset)
    place = GridFolder(folder)
    place.create(grid)
    return place, Ledger(place, grid.experiments())


def experiment(**changes: object) -> Experiment:
    """One of the blog's grid but for its size, or with ``changes``."""
    values = {
        "spec": StackSpec("rnn", (4, 2), 1278),
        "recipe": load_recipe("blog", "rnn"),
        "seed": 0,
        "labels": "exact",
        "data": None,
        "data_digest": "0" * 64,
        "reuse_windows": True,
    }
    return Experiment(**(values | changes))  # type: ignore[arg-type]


def take(place: GridFolder, name: str, data: Path, stop: threading.Event | None = None) -> Outcome:
    """Run one experiment in this process."""
    (outcome,) = take_together(place, [name], data, stop)
    return outcome


def take_together(
    place: GridFolder, names: Sequence[str], data: Path, stop: threading.Event | None = None
) -> list[Outcome]:
    """Run experiments of one configuration in one task, in this process."""
    return take_up(str(place.path), names, str(data), "cpu", stop or threading.Event())


def weights(place: GridFolder, name: str) -> dict[str, np.ndarray]:
    """Of a finished experiment's model."""
    stack = surrogate.load(place.experiment(name).run.model).stack
    return {key: value.numpy() for key, value in stack.state_dict().items()}


def assert_same_result(one: GridFolder, other: GridFolder, name: str) -> None:
    """Bit for bit: the model's weights and every epoch's metrics."""
    ours, theirs = weights(one, name), weights(other, name)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert np.array_equal(value, theirs[key]), key
    metrics = [place.experiment(name).run.metrics.read_text() for place in (one, other)]
    assert metrics[0] == metrics[1]


def starts(place: GridFolder, name: str) -> list[dict[str, Any]]:
    """Each time a worker took the experiment up."""
    text = (place.experiment(name).path / "starts.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def killing_one(place: GridFolder, ledger: Ledger) -> Iterator[dict[str, int]]:
    """Kill the first worker that has trained an epoch; afterwards says of what, and its process."""
    killed: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not killed and not ended.wait(0.005):
            killed.update(list(at_work(place, ledger).items())[:1])
            for process in killed.values():
                os.kill(process, signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        ended.set()
        watcher.join()


def at_work(place: GridFolder, ledger: Ledger) -> dict[str, int]:
    """Process ids of those that hold a lease and have trained an epoch."""
    found = {}
    for name in ledger.rows:
        home = place.experiment(name)
        lease = read_lease(home.path)
        if lease and home.run.metrics.exists():
            found[name] = lease["pid"]
    return found


class InlineEngine:
    """An engine that runs its tasks in :meth:`wait`, one by one, or does what it is told.

    ``instead`` holds what happens to a task with that experiment in it.
    """

    def __init__(self, place: GridFolder, data: Path, together: int = 1, workers: int = 1) -> None:
        self.place, self.data = place, data
        self.together, self.workers, self.queue = together, workers, 0
        self.tasks: list[list[str]] = []
        self.instead: dict[str, Callable[[], Outcome]] = {}
        self.closed = False
        self._waiting: list[list[str]] = []

    @property
    def submitted(self) -> list[str]:
        return [name for names in self.tasks for name in names]

    @property
    def idle(self) -> int:
        return self.workers - len(self._waiting)

    def submit(self, names: Sequence[str]) -> None:
        self.tasks.append(list(names))
        self._waiting.append(list(names))

    def wait(self, seconds: float) -> list[Outcome]:
        ended: list[Outcome] = []
        for names in self._waiting:
            told = [self.instead[name]() for name in names if name in self.instead]
            ended += told or take_together(self.place, names, self.data)
        self._waiting = []
        return ended

    def close(self) -> None:
        self.closed = True
