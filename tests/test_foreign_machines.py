"""Systems and settings unlike the developers': encodings, devices, links, missing homes."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.brian import random_model
from surrogate import datasets, machine
from surrogate.cli import main as frame
from surrogate.cli._common import emit, say
from surrogate.datasets.convert import convert
from surrogate.errors import DataError, SurrogateError, one_line
from surrogate.files import atomic_write_text, check_is_file, lock_file
from surrogate.grid.folder import ExperimentFolder
from surrogate.grid.lease import Lease, read_lease
from surrogate.kernels import StackSpec
from surrogate.model.model_file import save
from surrogate.training.progress import Console

# A command that prints what the terminal may lack.
PRINTING = """
import sys, click
from surrogate.cli import main as frame
from surrogate.cli._common import emit
command = click.Command("show", callback=lambda: emit("--json" in sys.argv, {"µ": "⣿"}, "µ ⣿ 0.97"))
frame.COMMANDS["show"] = ("", "", "")
frame.LazyGroup.get_command = lambda *_: command
sys.exit(frame.main(["show"]))
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-16", "utf-8"])
def test_a_result_is_printed_whatever_the_encoding(encoding: str) -> None:
    for flags in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", PRINTING, *flags],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout.decode(encoding, errors="replace")
        assert json.loads(printed) == {"µ": "⣿"} if flags else "0.97" in printed


def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "real.json", tmp_path / "link.json"
    real.parent.mkdir()
    link.symlink_to(real)
    for text in ("first", "second"):  # at first it points to nothing
        atomic_write_text(link, text)
        assert link.is_symlink()
        assert real.read_text() == text
    assert [path.name for path in real.parent.iterdir()] == ["real.json"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_neither_replaced_nor_waited_for(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/full")
    if kind == "pipe":
        path = tmp_path / "pipe.h5"
        os.mkfifo(path)
    elif not path.is_char_device():
        pytest.skip("no /dev/full here")
    before = path.stat().st_mode
    with pytest.raises(DataError, match=f"is a {kind}"):
        atomic_write_text(path, "text")
    with pytest.raises(DataError, match=f"is a {kind}"):
        check_is_file(path)
    assert path.stat().st_mode == before


def test_a_path_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(DataError, match="no path"):
        check_is_file("data\x00.h5")


def test_pipes_among_an_experiment_s_files_are_not_waited_for(tmp_path: Path) -> None:
    for name in (".lease.lock", "starts.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe"):
        Lease.acquire(tmp_path, threading.Event())
    with pytest.raises(DataError, match="is a pipe"):
        ExperimentFolder(tmp_path).note_start(0, None)


def test_without_a_home_the_cache_lies_among_temporary_files(monkeypatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert machine.cache_folder().is_absolute()


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    spec = StackSpec("rnn", tuple(np.array([8, 2])), np.int64(20))
    assert spec == StackSpec("rnn", (8, 2), 20)
    assert all(type(size) is int for size in (*spec.hidden_sizes, spec.input_size))
    with pytest.raises(ValueError, match="whole numbers"):
        StackSpec("rnn", (8.0, 2), 20)


def without_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_without_file_locks_work_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcntl.flock", without_locks)
    for _ in range(2):
        lease = Lease.acquire(tmp_path, threading.Event())
        assert lease is not None
        lease.release()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: this file system has no locks" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere", "heartbeat": time.time() + 3 * 86_400},
        {"host": "elsewhere", "heartbeat": "soon"},
        {"host": "elsewhere", "heartbeat": float("nan")},
        {"pid": 10**30},
        {"pid": float("inf")},
    ],
)
def test_a_lease_that_makes_no_sense_keeps_nobody_waiting(tmp_path: Path, changes: dict) -> None:
    lease = Lease.acquire(tmp_path, threading.Event())
    assert lease is not None
    file = tmp_path / "lease.json"
    content = json.loads(file.read_text())
    assert read_lease(tmp_path) == content
    file.write_text(json.dumps(content | changes))
    assert read_lease(tmp_path) is None


def test_a_port_that_is_no_dask_scheduler_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    from surrogate.grid import cluster

    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SurrogateError, match=r"not that of its dashboard") as caught:
            cluster.connect(address)
    assert f"--scheduler {address}" in str(caught.value)


# Wide enough for torch to copy its weights on several threads.
FORKING = """
import multiprocessing, sys
import torch
from brian2 import ms, prefs, run
import surrogate
from surrogate.kernels import SpikeEvents

def use(_):
    events = SpikeEvents.from_dense((torch.arange(40 * 1278) % 97 == 0).view(2, 20, 1278).float())
    return float(surrogate.load(sys.argv[1]).predict(events)[1].sum())

torch.set_num_threads(2)
expected = use(0)
prefs.codegen.target = "numpy"
cells = surrogate.SurrogateNeuron(2, sys.argv[1], threshold="p > 0.5", refractory=2 * ms)
run(5 * ms)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(use, [0, 1]).get(timeout=60)
    assert all(abs(one - expected) < 1e-4 * abs(expected) for one in found), (found, expected)
"""


def test_a_forked_child_loads_and_predicts(tmp_path: Path) -> None:
    """After its parent loaded a model, predicted and ran Brian2."""
    path = tmp_path / "model.safetensors"
    model = random_model("lstm", (256, 64, 2), inputs=1278)
    save(path, model.stack, model.card)
    done = subprocess.run(
        [sys.executable, "-c", FORKING, path],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


FIGURES = """
import sys
import numpy as np
from pathlib import Path
from surrogate.plots.learning_curve import plot_learning_curve
from surrogate.plots.style import figure_style
folder = Path(sys.argv[1])
entry = {"step": 1, "spike_loss": 1.0, "voltage_loss": 1.0, "roc_auc": 0.9, "voltage_rmse_mv": 1.0,
         "kept": True}
plot_learning_curve(folder / "curve.png", [entry])
plot_learning_curve(folder / "curve.svg", [entry])
import matplotlib
with figure_style():
    print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams["font.size"])
print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams["font.size"])
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.nowhere", "qtagg", "no such"])
def test_no_setting_of_the_user_s_reaches_our_figures(tmp_path: Path, backend: str) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 31\n")
    done = subprocess.run(
        [sys.executable, "-c", FIGURES, tmp_path],
        env=os.environ | {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "10.0", "True", "31.0"]
    assert {"curve.png", "curve.svg"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "message",
    ["first\n  second", "a\x1b]0;title\x07b", "x" * 100_000, "\x1b[31m" * 100_000, "é ⣿ ok", ""],
)
def test_a_message_is_one_line_of_300_printable_characters(message: str) -> None:
    line = one_line(message)
    assert line.isprintable()
    assert len(line) <= 300
    if len(message) < 300 and message.isprintable():
        assert line == message


def test_no_escape_sequence_of_a_file_reaches_the_terminal(capsys) -> None:
    """Neither in a result nor in what is told on the way."""
    text = "unstable: \x1b]0;title\x07\x00\nepochs: µ ⣿ 3"
    for show in (lambda text: emit(False, {}, text), say, Console().say):
        show(text)
        out, err = capsys.readouterr()
        assert out + err == "unstable: \\x1b]0;title\\x07\\x00\nepochs: µ ⣿ 3\n"


def test_two_conversions_to_one_file_do_not_disturb_each_other(toy_data, tmp_path) -> None:
    out = tmp_path / "out.h5"
    parts = tmp_path / "out.h5.parts"
    parts.mkdir()
    with (parts / ".lock").open("wb") as first:
        lock_file(first, wait=False)
        (parts / ".part.h5.1.partial").touch()
        with pytest.raises(DataError, match="another conversion is writing this file"):
            convert([toy_data], out)
        assert (parts / ".part.h5.1.partial").exists()
    convert([toy_data], out)
    assert not parts.exists()


def test_a_conversion_keeps_a_link_and_replaces_no_device(toy_data, tmp_path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "real.h5")
    convert([toy_data], tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert datasets.open(tmp_path / "real.h5").n_trials == 12
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe"):
        convert([toy_data], tmp_path / "pipe")


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "info", "PIPE"),
        ("data", "convert", "PIPE", "--out", "OUT"),
        ("evaluate", "PIPE"),
        ("train", "--recipe", "PIPE", "--out", "OUT"),
        ("train", "--data", "PIPE", "--out", "OUT"),
        ("grid", "run", "PIPE", "--out", "OUT"),
    ],
)
def test_a_pipe_as_input_is_refused_at_once(tmp_path, arguments, capsys) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = {"PIPE": str(tmp_path / "pipe"), "OUT": str(tmp_path / "out")}
    signal.alarm(30)  # instead of for ever
    try:
        assert frame.main([places.get(one, one) for one in arguments]) in (1, 2)
    finally:
        signal.alarm(0)
    assert "pipe" in capsys.readouterr().err.splitlines()[-1]
