"""Surrogates that step on a GPU: in Triton's interpreter where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from helpers.brian import random_model
from surrogate import SurrogateNeuron
from surrogate.errors import UsageError


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_so() -> None:
    with pytest.raises(UsageError, match='leave device="cpu"'):
        SurrogateNeuron(1, random_model(), device="cuda")


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu:0", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_models_on_a_gpu_step_and_are_stored_like_those_on_the_cpu(device, tmp_path) -> None:
    pytest.importorskip("triton")
    script = tmp_path / "network.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np
        from brian2 import *
        from helpers.brian import feed, random_arrivals, random_model
        from surrogate import SurrogateNeuron

        prefs.codegen.target = "numpy"
        index, ticks = random_arrivals(np.random.default_rng(2), 60, 12, 300)
        results = []
        for device in ("cpu", sys.argv[1]):
            cells = SurrogateNeuron(3, random_model("gru", (4, 2)), device=device)
            trace = StateMonitor(cells, "v", record=True)
            network = Network(cells, trace, *feed(cells.inputs, index, ticks))
            network.run(5.3 * ms)
            network.store()
            network.run(3 * ms)
            network.restore()
            network.run(6 * ms)
            results.append((np.asarray(trace.v[:]), cells.hidden_state, cells.lost[:]))
            cells.hidden_state = np.zeros(cells.hidden_state.shape[1])
            assert not cells.hidden_state.any()
        for ours, expected in zip(*results):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
        assert results[0][2].sum() > 20
        """)
    )
    interpreted = {"TRITON_INTERPRET": "1"} if device == "cpu:0" else {}
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(script), device],
        env=os.environ | path | interpreted,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
