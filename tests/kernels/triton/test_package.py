"""The Triton kernels where nothing runs them, and their tests in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from surrogate.kernels import PROVIDERS, SpikeEvents, StackSpec
from surrogate.kernels import triton as kernels

FOLDER = Path(__file__).parent / "interpreter"


def _interpret(marker: str) -> None:
    """Run the tests of ``interpreter/`` in a process where Triton interprets."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marker]
    result = subprocess.run(
        [*command, str(FOLDER)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[3],
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_kernels_are_correct_in_the_interpreter() -> None:
    _interpret("not slow and not gpu")


@pytest.mark.slow
def test_kernels_are_correct_in_the_interpreter_in_every_combination() -> None:
    _interpret("slow and not gpu")


def test_package_is_importable_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import surrogate.kernels.triton as kernels
assert kernels.why_not("cpu")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_say_why_they_cannot_run(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(kernels, "_TRITON_PROBLEM", None)
    assert kernels.why_not("cuda") == "no CUDA GPU is present"
    spec = StackSpec("rnn", (2,), 3)
    weights = {name: torch.zeros(shape) for name, shape in spec.parameter_shapes().items()}
    events = SpikeEvents.from_dense(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match=r"cannot run this stack: .*\(no CUDA GPU is present\)"):
        PROVIDERS["triton"].run(spec, weights, events, torch.zeros(1, 2))
    monkeypatch.setattr(kernels, "version", lambda name: "3.2.0")
    assert kernels._triton_problem() == "Triton 3.2.0 is too old, 3.6 is needed"


def test_only_float32_on_a_recent_gpu_is_run(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(kernels, "_TRITON_PROBLEM", None)
    assert kernels.why_not("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.why_not("cuda") is None
    assert "not torch.float64 on cuda" in kernels.why_not("cuda", torch.float64)
    assert "not torch.float32 on cpu" in kernels.why_not("cpu")
