"""The Dask engine: the results of the local one, though workers die; clear words without it."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import Any

import pytest

from helpers.grid import (
    InlineEngine,
    assert_same_result,
    killing_one,
    small_grid,
    starts,
    surrogate_command,
    take,
)
from surrogate.errors import Interrupted, SurrogateError
from surrogate.grid import cluster
from surrogate.grid.cluster import DaskEngine
from surrogate.grid.lease import Lease, read_lease
from surrogate.grid.scheduler import run_grid
from surrogate.grid.task import Outcome

GRID: dict[str, Any] = {
    "arch": "lstm",
    "learning_rate": [0.001, 0.003, 0.006, 0.01],
    "set": {"epochs": 40, "windows_per_epoch": 16, "batch_size": 4, "window_ms": 200},
}


@pytest.mark.parametrize("arguments", [["--scheduler", "tcp://127.0.0.1:9"], ["--cluster", "FILE"]])
def test_without_dask_one_line_says_how_to_install_it(
    arguments, toy_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in ("distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, module, None)
    file = tmp_path / "slurm.toml"
    file.write_text("[slurm]\njobs = 1\n")
    place, _ = small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=0.01)
    arguments = [str(file) if one == "FILE" else one for one in arguments]
    result = surrogate_command("grid", "run", "--out", place.path, "--engine", "dask", *arguments)
    assert result.exit_code == 2
    assert "python -m pip install 'surrogate-neuron[cluster]'" in result.stderr.splitlines()[-1]
    assert not (place.path / "costs.json").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slurm]\nqueue = 'main'", "[slurm] jobs = None: expected a whole number"),
        ("[slurm]\njobs = 1000000000", "[slurm] jobs = 1000000000: expected at most 10000"),
        ("[slurm]\njobs = 1\nmemory = []", "[slurm]: 'list' object has no attribute"),
        ("[slurm]\njobs = 1\nmemory = '1GB'\nprocesses = 0", "[slurm]: division by zero"),
        ("[slurm]\njobs = 1\nmemory = '1GB'\nquue = 'main'", "quue"),
        ("slurm = 3", "needs --scheduler ADDRESS, or a [slurm] table"),
    ],
)
def test_mistakes_in_a_slurm_table_are_one_line(text, message, toy_data, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place, _ = small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=0.01)
    file = tmp_path / "slurm.toml"
    file.write_text(text)
    result = surrogate_command(
        "grid", "run", "--out", place.path, "--engine", "dask", "--cluster", file
    )
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_task_whose_client_is_gone_does_not_begin(toy_data, tmp_path) -> None:
    """As on a worker that was still importing torch when somebody pressed Ctrl-C."""
    place, ledger = small_grid(tmp_path / "g", toy_data)
    name = next(iter(ledger.rows))
    gone = place.path / "clients" / "gone"
    outcomes = cluster._take_up_on_worker(
        str(place.path), str(gone), [name], str(toy_data), False, "cpu"
    )
    assert outcomes == [Outcome(name, "interrupted")]
    assert not place.experiment(name).path.exists()
    assert not gone.parent.exists()


def test_a_task_stops_when_its_client_does(toy_data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "HEARTBEAT_S", 0.05)
    endless = {**GRID, "learning_rate": 0.001, "set": GRID["set"] | {"epochs": 10_000}}
    place, ledger = small_grid(tmp_path / "g", toy_data, **endless)
    (name,) = ledger.rows
    home = place.path / "clients" / "one"
    client = Lease.acquire(home, threading.Event())
    assert client is not None
    seen: list[Outcome] = []
    arguments = str(place.path), str(home), [name], str(toy_data), False, "cpu"
    work = threading.Thread(target=lambda: seen.extend(cluster._take_up_on_worker(*arguments)))
    work.start()
    while not place.experiment(name).run.metrics.exists():
        assert work.is_alive()
        time.sleep(0.01)
    assert read_lease(home / name) is not None  # by which the client sees that it still saves
    client.release()
    work.join(60)
    assert seen == [Outcome(name, "interrupted")]
    assert not home.parent.exists()
    assert list(place.experiment(name).path.glob("checkpoint*.pt"))


def test_a_scheduler_that_is_gone_is_one_line(toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data)
    closed: list[bool] = []

    class Gone:
        cluster = None

        def nthreads(self):
            raise OSError("timed out by the test")

        def cancel(self, futures):
            self.nthreads()

        def close(self) -> None:
            closed.append(True)

    engine = DaskEngine(place.path, str(toy_data), Gone())
    with pytest.raises(SurrogateError, match=r"scheduler is gone \(timed out by the test\); every"):
        run_grid(list(ledger.rows), ledger, engine, threading.Event(), lambda outcome: None)
    assert closed == [True]


@pytest.fixture
def client():
    """Of a real cluster of three worker processes."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(3, timeout=120)
        yield client


@pytest.mark.slow
def test_a_dask_cluster_gives_what_the_local_engine_gives_though_a_worker_is_killed(
    client, toy_data, tmp_path
) -> None:
    place, ledger = small_grid(tmp_path / "dask", toy_data, **GRID)
    engine = DaskEngine(place.path, str(toy_data), client)
    assert engine.workers == 3
    with killing_one(place, ledger) as killed:
        run_grid(list(ledger.rows), ledger, engine, threading.Event(), lambda outcome: None)
    assert len(killed) == 1
    whole, undisturbed = small_grid(tmp_path / "local", toy_data, **GRID)
    local = InlineEngine(whole, toy_data)
    run_grid(list(undisturbed.rows), undisturbed, local, threading.Event(), lambda outcome: None)
    for name in ledger.rows:
        assert_same_result(place, whole, name)
        assert len(starts(place, name)) == (2 if name in killed else 1)


@pytest.mark.slow
def test_stopping_a_dask_grid_saves_what_runs_and_another_engine_goes_on(
    client, toy_data, tmp_path
) -> None:
    # Long enough to be caught at work: progress shows at the renewals of a lease, every 5 s.
    longer = {"set": GRID["set"] | {"epochs": 1000}, "learning_rate": [0.001, 0.003]}
    place, ledger = small_grid(tmp_path / "g", toy_data, **GRID | longer)
    moved = tmp_path / "moved.h5"  # which no worker knows: the data are sent along
    shutil.copy(toy_data, moved)
    stop = threading.Event()

    def stop_early(outcome: Outcome | None) -> None:
        if any(row.progress > 0 for row in ledger.rows.values()):
            stop.set()

    engine = DaskEngine(place.path, str(moved), client, ship_data=True)
    with pytest.raises(Interrupted):
        run_grid(list(ledger.rows), ledger, engine, stop, stop_early)
    ledger.refresh(ledger.rows)
    assert ledger.counts()["running"] == ledger.counts()["failed"] == 0
    assert ledger.counts()["pending"] > 0
    local = InlineEngine(place, toy_data)
    run_grid(list(ledger.rows), ledger, local, threading.Event(), lambda outcome: None)
    assert ledger.counts()["pending"] == 0
    resumed = [start["step"] for name in ledger.rows for start in starts(place, name)[1:]]
    assert resumed
    assert all(step > 0 for step in resumed)


@pytest.mark.slow
def test_stopping_one_client_leaves_anothers_experiments_alone(client, toy_data, tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    longer = {"set": GRID["set"] | {"epochs": 400}, "learning_rate": 0.001}
    place, ledger = small_grid(tmp_path / "g", toy_data, **GRID | longer)
    (name,) = ledger.rows
    first = DaskEngine(place.path, str(toy_data), client)
    first.submit([name])
    while read_lease(place.experiment(name).path) is None:
        time.sleep(0.1)
    second = DaskEngine(
        place.path,
        str(toy_data),
        distributed.Client(client.scheduler.address, set_as_default=False),
    )
    second.submit([name])
    second.close()
    assert read_lease(place.experiment(name).path) is not None  # the first one's still
    outcomes: list[Outcome] = []
    while not outcomes:
        outcomes = first.wait(1.0)
    assert [one.status for one in outcomes] in (["done"], ["unstable"])
    assert len(starts(place, name)) == 1
    first.close()
    assert not (place.path / "clients").exists()


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_data_says_what_to_do(client, toy_data, tmp_path) -> None:
    place, ledger = small_grid(tmp_path / "g", toy_data, **GRID)
    engine = DaskEngine(place.path, str(tmp_path / "gone.h5"), client)
    with pytest.raises(SurrogateError, match=r"gone.h5: Dask worker on .* --ship-data"):
        run_grid(list(ledger.rows), ledger, engine, threading.Event(), lambda outcome: None)


@pytest.mark.slow
def test_dask_workers_train_together_and_a_killed_one_is_made_up_for(
    client, toy_data, tmp_path, monkeypatch
) -> None:
    # As if the other workers had other work; they would else get their shares.
    monkeypatch.setattr(DaskEngine, "idle", property(lambda engine: -len(engine._futures)))
    changes = {**GRID, "learning_rate": [0.001, 0.003, 0.006]}
    place, ledger = small_grid(tmp_path / "dask", toy_data, **changes)
    engine = DaskEngine(place.path, str(toy_data), client, together=3)
    assert (engine.workers, engine.together) == (3, 3)
    with killing_one(place, ledger) as killed:
        run_grid(list(ledger.rows), ledger, engine, threading.Event(), lambda outcome: None)
    assert len(killed) == 1
    whole, undisturbed = small_grid(tmp_path / "local", toy_data, **changes)
    for name in undisturbed.rows:
        take(whole, name, toy_data)
        assert_same_result(place, whole, name)
        assert place.experiment(name).done()["together"] == 3
        assert len(starts(place, name)) == 2
