"""The model of the examples: an RNN 32-16-2, trained on the bundled data in half a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def model_path() -> Path:
    """The model file named on the command line, or one that is trained on the first call."""
    named = [argument for argument in sys.argv[1:] if argument.endswith(".safetensors")]
    if named:
        return Path(named[0])
    folder = Path("runs/example")
    if not (folder / "model.safetensors").exists():
        size = ["--arch", "rnn", "--hidden", "32-16-2", "--epochs", "2"]
        # As a module: it need not be on the PATH of whoever runs the example.
        command = [sys.executable, "-m", "surrogate.cli.main", "train", *size]
        subprocess.run([*command, "--out", str(folder)], check=True)
    return folder / "model.safetensors"
