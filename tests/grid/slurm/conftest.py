"""A real SLURM of one node, on this machine, for as long as the tests run."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "scancel", "squeue")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """Its configuration file, also in ``SLURM_CONF``."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)} (slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("a SLURM of one's own needs root")
    # Not pytest's folder: others may not look into it, and munge's socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, processes)
    finally:
        os.environ.pop("SLURM_CONF", None)
        for process in reversed(processes):
            process.terminate()
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, processes: list[subprocess.Popen[bytes]]) -> Path:
    folder.chmod(0o711)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    munge = folder / "munge"
    munge.chmod(0o711)
    key = munge / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    files = {name: munge / name for name in ("socket", "pid", "log", "seed")}
    processes.append(
        subprocess.Popen(
            [
                *("munged", "--foreground", "--force", f"--key-file={key}"),
                *(f"--socket={files['socket']}", f"--pid-file={files['pid']}"),
                *(f"--log-file={files['log']}", f"--seed-file={files['seed']}"),
            ]
        )
    )
    _until(files["socket"].exists, "munged did not come up")
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            cpus=os.cpu_count(),
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    # Brian2 leaves it behind after a standalone program; SLURM's plugins fail to load with it.
    os.environ.pop("LD_BIND_NOW", None)
    os.environ["SLURM_CONF"] = str(configuration)
    for program in ("slurmctld", "slurmd"):
        processes.append(subprocess.Popen([program, "-D", "-f", str(configuration)]))
    _until(_idle, f"SLURM did not come up: {(folder / 'slurmctld.log')}")
    return configuration


def _idle() -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() == "idle"


def _until(condition, complaint: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
