"""The grid on a real SLURM: a job is cancelled on the way, and the results stay the local ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from helpers.grid import InlineEngine, assert_same_result, small_grid, starts
from surrogate.grid.lease import read_lease
from surrogate.grid.scheduler import run_grid

GRID = {
    "arch": "lstm",
    "learning_rate": [0.001, 0.003, 0.006, 0.01],
    "set": {"epochs": 150, "windows_per_epoch": 16, "batch_size": 4, "window_ms": 200},
}


@pytest.mark.slow
def test_slurm_jobs_give_what_the_local_engine_gives_though_one_is_cancelled(
    slurm, toy_data, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place, ledger = small_grid(tmp_path / "slurm", toy_data, **GRID)
    table = tmp_path / "slurm.toml"
    table.write_text(
        f"""
        [slurm]
        jobs = 2
        queue = "main"
        memory = "1GB"
        walltime = "00:20:00"
        interface = "lo"
        log_directory = "{tmp_path}/logs"
        local_directory = "{tmp_path}/scratch"
        """
    )
    command = [sys.executable, "-m", "surrogate.cli.main", "grid", "run", "--json"]
    command += ["--out", str(place.path), "--engine", "dask", "--cluster", str(table)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 300
    cancelled = ""
    while not cancelled:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
        for name in ledger.rows:
            lease = read_lease(place.experiment(name).path)
            if lease and place.experiment(name).run.metrics.exists():
                cancelled = _job_of(lease["pid"])
                break
    subprocess.run(["scancel", cancelled], check=True)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    counts = json.loads(output.splitlines()[-1])["counts"]
    assert counts["done"] + counts["unstable"] == len(ledger.rows)
    whole, undisturbed = small_grid(tmp_path / "local", toy_data, **GRID)
    local = InlineEngine(whole, toy_data)
    run_grid(list(undisturbed.rows), undisturbed, local, threading.Event(), lambda outcome: None)
    for name in ledger.rows:
        assert_same_result(place, whole, name)
    taken_up = [len(starts(place, name)) for name in ledger.rows]
    assert sorted(taken_up) == [1, 1, 1, 2]


def _job_of(pid: int) -> str:
    """The SLURM job that process ``pid`` belongs to."""
    with open(f"/proc/{pid}/environ", "rb") as handle:
        entries = dict(entry.partition(b"=")[::2] for entry in handle.read().split(b"\0"))
    return entries[b"SLURM_JOB_ID"].decode()
