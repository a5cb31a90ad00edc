"""A small model that the tests of evaluation share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surrogate import RecurrentStack
from surrogate.channels import Channels
from surrogate.model.card import ModelCard
from surrogate.model.model_file import save

CHANNELS = Channels.of(excitatory=10, inhibitory=10)


@pytest.fixture
def stack() -> RecurrentStack:
    torch.manual_seed(2)
    return RecurrentStack(
        "lstm", (5, 2), input_size=20, head="linear", voltage_scale=10.0, voltage_offset=-67.0
    )


@pytest.fixture
def model_path(tmp_path: Path, stack: RecurrentStack) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, stack, ModelCard(stack.spec, CHANNELS, 1.0))
    return path
