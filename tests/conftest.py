"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from surrogate.datasets import Trial

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of full-size data files beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"shared data not present: {folder}")
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a leaky integrate-and-fire neuron: 20 inputs, 12 trials of 400 ms."""
    from surrogate.datasets import ChannelGroup, Channels, Header, write

    rng = np.random.default_rng(11)
    segments = {
        "type": np.array([b"basal"] * 10),
        "length_um": np.full(10, 20.0),
        "distance_um": np.linspace(10, 200, 10),
        "section": np.arange(10),
    }
    groups = [ChannelGroup(kind, 10, segments=range(10)) for kind in ("excitatory", "inhibitory")]
    header = Header(400, Channels(groups), 1.0, segments, rounded_times=True)
    path = tmp_path_factory.mktemp("toy") / "toy data.h5"
    splits = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
    trials = [_toy_trial(rng, index, split) for index, split in enumerate(splits)]
    write(path, header, trials, {"source": "a leaky integrate-and-fire neuron"})
    return path


@pytest.fixture(scope="session")
def toy_teacher(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of an LSTM that has learnt a little of that neuron."""
    import surrogate

    settings = {"windows_per_epoch": 64, "window_ms": 200, "burn_in_ms": 50, "epochs": 4}
    out = tmp_path_factory.mktemp("teacher") / "run"
    run = surrogate.train(
        toy_data, hidden="8-2", out=out, plots=False, reuse_windows=True, **settings
    )
    return run.model_path


def _toy_trial(rng: np.random.Generator, index: int, split: str) -> Trial:
    from surrogate.datasets import Trial

    active = rng.random((400, 20)) < 0.06
    drive = active[:, :10].sum(1) - 0.7 * active[:, 10:].sum(1)
    voltage, spikes, v = np.empty(400), [], 0.0
    for t in range(400):
        voltage[t] = -75 + 6 * v
        v = 0.9 * v + drive[t]
        if v > 3.5:
            spikes.append(t + 0.625)
            v = 0.0
    times = np.array(spikes, np.float64)
    return Trial(
        channel=np.nonzero(active)[1].astype(np.uint16),
        row_ptr=np.concatenate([[0], active.sum(1).cumsum()]),
        spike_time_ms=times,
        rounded_spike_time_ms=times.astype(np.float16).astype(np.float32),
        voltage_mV={"soma": voltage.astype(np.float16).astype(np.float32)},
        silenced=np.flatnonzero(active[0]).astype(np.uint16),
        source=(11, index),
        split=split,
    )


@pytest.fixture
def public_content() -> dict[str, Any]:
    """What a public pickle holds, in small: 3 trials of 300 ms, 4 segments, 8 samples per ms."""
    rng = np.random.default_rng(5)
    return {
        "Params": {
            "randomSeed": 77,
            "excitatorySynapseType": "NMDA",
            "inhibitorySynapseType": "GABA_A",
            "allSegmentsType": ["basal", "basal", "apical", "apical"],
            "allSegmentsLength": [20.0, 25.5, 30.0, 12.0],
            "allSegments_DistFromSoma": [10.0, 33.0, 100.5, 250.0],
            "allSegments_SectionInd": [0, 1, 2, 2],
        },
        "Results": {"listOfSingleSimulationDicts": [_public_trial(rng) for _ in range(3)]},
    }


def _public_trial(rng: np.random.Generator) -> dict[str, Any]:
    voltage = (-70 + rng.standard_normal(2400)).astype(np.float16)
    peaks = np.array([401, 1203, 2001])
    voltage[peaks] = 30
    return {
        "exInputSpikeTimes": {
            np.int64(s): sorted(np.int64(t) for t in rng.integers(1, 300, 20)) for s in (0, 1, 3)
        },
        "inhInputSpikeTimes": {
            np.int64(s): sorted(np.int64(t) for t in rng.integers(1, 300, 20)) for s in range(4)
        },
        "outputSpikeTimes": (peaks / 8).astype(np.float16),
        "somaVoltageHighRes": voltage,
        "somaVoltageLowRes": voltage[::8],
    }


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """On a busy machine the threads of these small networks wait for each other, up to minutes."""
    import torch

    torch.set_num_threads(1)
