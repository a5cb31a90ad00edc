"""A lease has one holder, and another only when that one is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.grid import small_grid
from surrogate.cli._grid_text import ledger_text, summary
from surrogate.errors import DataError
from surrogate.grid import lease as leases
from surrogate.grid.lease import Lease, read_lease


def _write(folder: Path, **changes: object) -> None:
    """A lease of this process, with ``changes``."""
    lease = Lease.acquire(folder, threading.Event())
    assert lease is not None
    path = folder / "lease.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_lease_is_held_once_and_free_again_when_given_back(tmp_path) -> None:
    first = Lease.acquire(tmp_path, threading.Event())
    assert first is not None
    assert Lease.acquire(tmp_path, threading.Event()) is None
    assert read_lease(tmp_path)["pid"] == os.getpid()  # type: ignore[index]
    first.release()
    assert read_lease(tmp_path) is None
    assert Lease.acquire(tmp_path, threading.Event()) is not None


def test_of_many_that_ask_at_once_one_gets_it(tmp_path) -> None:
    barrier = threading.Barrier(16)

    def ask(_: int) -> bool:
        barrier.wait()
        return Lease.acquire(tmp_path, threading.Event()) is not None

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(16))) == 1


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path, child) -> None:
    _write(tmp_path, pid=child.pid, process=leases._process_start(child.pid))
    assert read_lease(tmp_path) is not None
    assert Lease.acquire(tmp_path, threading.Event()) is None
    child.send_signal(signal.SIGKILL)
    if sys.platform == "linux":  # a zombie, not yet waited for, works no more
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert read_lease(tmp_path) is None
    child.wait()
    assert read_lease(tmp_path) is None
    assert Lease.acquire(tmp_path, threading.Event()) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="start times of processes are read from /proc")
def test_a_process_id_that_was_given_to_another_process_does_not_count(tmp_path, child) -> None:
    _write(tmp_path, pid=child.pid, process="1")
    assert read_lease(tmp_path) is None


def test_a_lease_of_another_host_lives_as_long_as_its_heartbeat(tmp_path) -> None:
    _write(tmp_path, host="elsewhere", pid=1, heartbeat=time.time() - leases.STALE_S / 2)
    assert read_lease(tmp_path) is not None
    (tmp_path / "lease.json").unlink()
    _write(tmp_path, host="elsewhere", pid=1, heartbeat=time.time() - leases.STALE_S - 1)
    assert read_lease(tmp_path) is None
    assert Lease.acquire(tmp_path, threading.Event()) is not None


def test_a_lease_whose_heartbeat_lies_days_ahead_is_not_waited_for(tmp_path) -> None:
    _write(tmp_path, host="elsewhere", pid=1, heartbeat=time.time() + 3 * 86_400)
    assert read_lease(tmp_path) is None
    assert Lease.acquire(tmp_path, threading.Event()) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}'])
def test_a_damaged_lease_is_none(text, tmp_path) -> None:
    (tmp_path / "lease.json").write_text(text)
    assert read_lease(tmp_path) is None
    assert Lease.acquire(tmp_path, threading.Event()) is not None


def test_what_others_wrote_reaches_the_terminal_as_printable_text(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    running, failed, *_ = ledger.rows
    home = place.experiment(running).path
    home.mkdir(parents=True)
    _write(home, host="\x1b]0;owned\x07\x1b[2J")
    place.experiment(failed).write_failure("\x1b[31mred\n" + 9_000 * "x")
    ledger.refresh(ledger.rows)
    assert (ledger.rows[running].status, ledger.rows[failed].status) == ("running", "failed")
    for text in (ledger_text(ledger, None), summary(ledger)):
        assert all(line.isprintable() and len(line) <= 300 for line in text.splitlines())
        assert r"\x1b[31mred xxx" in text


def test_a_holder_renews_its_lease_and_shows_how_far_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    lease = Lease.acquire(tmp_path, threading.Event())
    assert lease is not None
    before = read_lease(tmp_path)
    lease.step, lease.steps, lease.seconds = 3, 8, 1.5
    lease.renew()
    while (now := read_lease(tmp_path)) == before:
        time.sleep(0.01)
    lease.release()
    assert now is not None
    assert before is not None
    assert now["heartbeat"] > before["heartbeat"]
    assert (now["step"], now["steps"], now["seconds"]) == (3, 8, 1.5)
    assert not (tmp_path / "lease.json").exists()


def test_a_holder_that_was_taken_for_dead_stops_and_leaves_the_new_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    stop = threading.Event()
    lease = Lease.acquire(tmp_path, stop)
    assert lease is not None
    (tmp_path / "lease.json").unlink()
    _write(tmp_path)
    lease.renew()
    assert stop.wait(10)
    lease.release()
    assert read_lease(tmp_path) is not None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="not a folder"):
        Lease.acquire(tmp_path / "file" / "below", threading.Event())
