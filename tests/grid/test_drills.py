"""Failure drills with real processes: what is killed goes on, bit for bit, nothing runs twice."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.grid import (
    InlineEngine,
    assert_same_result,
    at_work,
    killing_one,
    small_grid,
    starts,
)
from surrogate.errors import DataError
from surrogate.grid.folder import GridFolder
from surrogate.grid.lease import read_lease
from surrogate.grid.local import LocalEngine
from surrogate.grid.scheduler import run_grid
from surrogate.grid.task import Outcome

# Long enough to be caught in the middle.
LONG = {"set": {"epochs": 40, "windows_per_epoch": 16, "batch_size": 4, "window_ms": 200}}
SLOW = {"arch": "lstm", "learning_rate": [0.001, 0.003, 0.006, 0.01]}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _grid_run(place: GridFolder, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "surrogate.cli.main", "grid", "run", "--device", "cpu"]
    return subprocess.Popen(
        [*command, "--out", str(place.path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _end(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == code, output
    return output


def _undisturbed(folder: Path, data: Path, **changes: object) -> GridFolder:
    place, ledger = small_grid(folder, data, **changes)
    engine = InlineEngine(place, data)
    run_grid(list(ledger.rows), ledger, engine, threading.Event(), lambda outcome: None)
    return place


def test_a_worker_killed_amid_training_is_replaced_and_goes_on(toy_data, tmp_path) -> None:
    changes = {**LONG, "arch": "lstm", "learning_rate": 0.01}
    place, ledger = small_grid(tmp_path / "killed", toy_data, **changes)
    died = []

    def report(outcome: Outcome | None) -> None:
        if outcome and outcome.status == "died":
            died.append(outcome)

    engine = LocalEngine(place.path, str(toy_data), ["cpu"])
    with killing_one(place, ledger) as killed:
        run_grid(list(ledger.rows), ledger, engine, threading.Event(), report)
    (name,) = killed
    assert [(one.hash, one.message) for one in died] == [
        (name, "its worker was killed by SIGKILL; out of memory?")
    ]
    whole = _undisturbed(tmp_path / "whole", toy_data, **changes)
    assert_same_result(place, whole, name)
    first, second = (start["step"] for start in starts(place, name))
    assert first == 0 < second


# Kills itself at the n-th rename onto checkpoint.pt: the old one is already out of the way.
_KILLED_IN_SAVING = """
import os, signal, sys, threading
from surrogate.grid.task import take_up
replace, left = os.replace, [int(sys.argv[4])]
def killing(source, target):
    if str(target).endswith(sys.argv[5]):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killing
take_up(sys.argv[1], [sys.argv[2]], sys.argv[3], "cpu", threading.Event())
"""


@pytest.mark.parametrize(
    ("file", "times", "step"),
    [
        ("checkpoint.pt", 2, 2),
        pytest.param("checkpoint.previous.pt", 2, 4, marks=pytest.mark.slow),
        pytest.param("done.json", 1, 6, marks=pytest.mark.slow),
    ],
)
def test_killed_amid_a_checkpoint_or_a_record_it_goes_on(
    file, times, step, toy_data, tmp_path
) -> None:
    place, ledger = small_grid(tmp_path / "killed", toy_data, arch="rnn", learning_rate=0.01)
    name = next(iter(ledger.rows))
    arguments = [str(place.path), name, str(toy_data), str(times), file]
    killed = subprocess.run([sys.executable, "-c", _KILLED_IN_SAVING, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    ledger.refresh([name])
    assert ledger.rows[name].status == "pending"
    whole = _undisturbed(tmp_path / "whole", toy_data, arch="rnn", learning_rate=0.01)
    engine = InlineEngine(place, toy_data)
    run_grid([name], ledger, engine, threading.Event(), lambda outcome: None)
    assert [start["step"] for start in starts(place, name)] == [0, step]
    assert_same_result(place, whole, name)
    assert not list(place.experiment(name).path.glob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_scheduler_takes_its_workers_along_and_the_grid_goes_on(
    number, toy_data, tmp_path, cache
) -> None:
    changes = {**LONG, **SLOW}
    place, ledger = small_grid(tmp_path / "killed", toy_data, **changes)
    process = _grid_run(place, "--jobs", "2")
    _until(lambda: len(at_work(place, ledger)) == 2, process)
    workers = at_work(place, ledger)
    process.send_signal(number)
    output = _end(process, -signal.SIGKILL if number == signal.SIGKILL else 1)
    if number != signal.SIGKILL:
        assert f"continue with: surrogate grid run --out {place.path}" in output
        assert "Traceback" not in output
    deadline = time.monotonic() + 30
    while any(read_lease(place.experiment(name).path) for name in workers):
        assert time.monotonic() < deadline, "workers went on without their scheduler"
        time.sleep(0.05)
    ledger.refresh(ledger.rows)
    finished = [name for name, row in ledger.rows.items() if row.finished]
    records = {name: (place.experiment(name).path / "done.json").read_bytes() for name in finished}
    run_grid(  # another engine goes on
        list(ledger.rows), ledger, InlineEngine(place, toy_data), threading.Event(), print
    )
    whole = _undisturbed(tmp_path / "whole", toy_data, **changes)
    for name in ledger.rows:
        assert_same_result(place, whole, name)
        steps = [start["step"] for start in starts(place, name)]
        assert steps == sorted(set(steps))  # each went on where the last one had saved
    for name, content in records.items():
        assert (place.experiment(name).path / "done.json").read_bytes() == content


@pytest.mark.slow
def test_two_runs_of_one_grid_share_the_work(toy_data, tmp_path, cache) -> None:
    place, ledger = small_grid(tmp_path / "shared", toy_data, **LONG, **SLOW)
    both = [_grid_run(place, "--jobs", "2", "--json") for _ in range(2)]
    for process in both:
        output = _end(process)
        counts = json.loads(output.splitlines()[-1])["counts"]
        assert counts["done"] + counts["unstable"] == len(ledger.rows)
    assert all(len(starts(place, name)) == 1 for name in ledger.rows)


@pytest.mark.slow
def test_a_disk_that_fills_up_under_the_workers_ends_in_one_line(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "full", toy_data, arch="rnn")
    engine = LocalEngine(place.path, str(toy_data), ["cpu", "cpu"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))  # the workers inherit it
    try:
        with pytest.raises(DataError, match="what is finished is kept, run the grid again"):
            run_grid(list(ledger.rows), ledger, engine, threading.Event(), print)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    ledger.refresh(ledger.rows)
    assert ledger.counts()["pending"] == len(ledger.rows)
    run_grid(list(ledger.rows), ledger, InlineEngine(place, toy_data), threading.Event(), print)
    assert ledger.counts()["pending"] == ledger.counts()["failed"] == 0
