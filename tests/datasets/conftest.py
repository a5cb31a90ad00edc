"""Fixtures of the tests of data files."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def copy(toy_data: Path, tmp_path: Path) -> Path:
    """A copy of the toy data to damage."""
    return Path(shutil.copy(toy_data, tmp_path / "copy.h5"))


@pytest.fixture
def pickles(public_content: dict[str, Any], tmp_path: Path) -> list[Path]:
    """Four public pickles in small, in a folder with a space in its name."""
    folder = tmp_path / "down loads"
    folder.mkdir()
    paths = []
    for number in range(4):
        content = public_content
        content["Params"]["randomSeed"] = number
        for trial in content["Results"]["listOfSingleSimulationDicts"]:
            trial["exInputSpikeTimes"] = {0: [number + 1, 40 + number]}
            trial["inhInputSpikeTimes"][np.int64(1)].append(np.int64(299))
            trial["somaVoltageLowRes"] = trial["somaVoltageLowRes"] - np.float16(1)
        paths.append(folder / f"sim {number}.p")
        paths[-1].write_bytes(pickle.dumps(content, protocol=2))
    return paths
