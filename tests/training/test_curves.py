"""A network trains along the same curve whichever provider computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surrogate import train
from surrogate.kernels import cpu, run


def _curve(provider: str, arch: str, folder: Path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each step, and voltage RMSE after each epoch, mV, on the bundled sample."""
    monkeypatch.setattr(run, "default_provider", lambda *_: provider)
    losses: list[float] = []
    done = train(
        arch=arch,
        hidden=(16, 8, 2),
        out=folder / provider,
        plots=False,
        progress=lambda progress: losses.append(progress.loss),
        epochs=4,
        windows_per_epoch=32,
        batch_size=8,
        window_ms=120,
        burn_in_ms=20,
    )
    return np.array(losses), np.array([entry["voltage_rmse_mv"] for entry in done.history])


@pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_cpp_kernels_follow_the_reference_within_rounding(arch, tmp_path, monkeypatch) -> None:
    losses, rmse = _curve("cpu", arch, tmp_path, monkeypatch)
    expected, expected_rmse = _curve("reference", arch, tmp_path, monkeypatch)
    print(np.abs(losses / expected - 1).max(), np.abs(rmse / expected_rmse - 1).max())
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    np.testing.assert_allclose(rmse, expected_rmse, rtol=2e-5)
    assert rmse[-1] < 0.98 * rmse[0], "nothing was learnt, so nothing was compared"
