"""Small sound files and folders of every kind, and the counters at the end of the test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surrogate
from helpers.faults import COUNTERS
from surrogate import datasets
from surrogate.datasets import ChannelGroup, Channels, Header, Trial


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTERS:
        names = list(next(iter(COUNTERS.values())))
        rows = [["", *names]]
        rows += [
            [kind, *(str(counts[name]) for name in names)] for kind, counts in COUNTERS.items()
        ]
        terminalreporter.section("fault suite")
        for row in rows:
            terminalreporter.line(row[0].ljust(20) + "".join(cell.rjust(15) for cell in row[1:]))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five trials of 60 ms with six inputs."""
    rng = np.random.default_rng(1)
    segments = {
        "type": np.array([b"basal"] * 3),
        "length_um": np.full(3, 20.0),
        "distance_um": np.arange(3) + 10.0,
        "section": np.arange(3),
    }
    groups = [ChannelGroup(kind, 3, segments=range(3)) for kind in ("excitatory", "inhibitory")]
    header = Header(60, Channels(groups), 1.0, segments, rounded_times=True)
    trials = []
    for index, split in enumerate(("train", "train", "valid", "valid", "test")):
        active = rng.random((60, 6)) < 0.1
        times = np.array([10.5, 30.25, 44.5]) + index
        trials.append(
            Trial(
                channel=np.nonzero(active)[1].astype(np.uint16),
                row_ptr=np.concatenate([[0], active.sum(1).cumsum()]),
                spike_time_ms=times,
                rounded_spike_time_ms=times.astype(np.float16).astype(np.float32),
                voltage_mV={"soma": (rng.standard_normal(60) - 70).astype("f2").astype("f4")},
                silenced=np.flatnonzero(active[0]).astype(np.uint16),
                source=(1, index),
                split=split,
            )
        )
    path = tmp_path_factory.mktemp("tiny") / "tiny.h5"
    datasets.write(path, header, trials, {"source": "random numbers"})
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as context:
        context.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_recipe() -> dict[str, Any]:
    """Of a training that takes a few milliseconds."""
    few = {"epochs": 3, "windows_per_epoch": 2, "batch_size": 1}
    return few | {"window_ms": 20, "burn_in_ms": 0}


@pytest.fixture(scope="session")
def tiny_training(tiny_recipe: dict[str, Any]) -> dict[str, Any]:
    """What :func:`surrogate.train` takes for it."""
    small = {"arch": "rnn", "hidden": "2-2", "reuse_windows": True, "plots": False}
    return small | tiny_recipe


@pytest.fixture(scope="session")
def tiny_run(
    tiny_data: Path, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run, its two checkpoints included."""
    run = tmp_path_factory.mktemp("runs") / "run"
    surrogate.train(tiny_data, out=run, **tiny_training)
    return run
