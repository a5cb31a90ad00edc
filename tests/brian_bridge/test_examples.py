"""The examples run as they stand, from another folder, with a model trained as they train it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MIXED = ["surrogates", "integrate_and_fire", "hodgkin_huxley"]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    size = ["--arch", "rnn", "--hidden", "32-16-2", "--epochs", "2"]
    command = [sys.executable, "-m", "surrogate.cli.main", "train", *size, "--out", str(folder)]
    subprocess.run(command, capture_output=True, check=True)
    return folder / "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "options", "figure", "spiking"),
    [
        ("poisson_traces.py", [], "poisson_traces.png", ["surrogates"]),
        ("microcircuit.py", [], "microcircuit.png", ["pyramidal", "interneuron"]),
        ("mixed_network.py", [], "mixed_network.png", [*MIXED, "artificial_readout"]),
        ("mixed_network.py", ["--standalone"], "mixed_network.png", MIXED),
    ],
)
def test_example_runs(example, options, figure, spiking, model_file, tmp_path) -> None:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / example), *options, str(model_file)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / figure).stat().st_size > 10_000
    printed = (line.strip().partition(":") for line in done.stdout.splitlines())
    shown = {name: rest.split()[0] for name, colon, rest in printed if colon and rest}
    for name in spiking:
        assert float(shown[name]) > 0, done.stdout
