"""Small model files, whole and altered on purpose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

from surrogate import RecurrentStack
from surrogate.channels import ChannelGroup, Channels
from surrogate.kernels.branches import Branches
from surrogate.model.card import ModelCard
from surrogate.model.spike_rule import SpikeRule

#: With a channel on two branches, and one on none.
BRANCHES = Branches([range(10), [0, *range(11, 20)]], [1] * 10 + [-1] * 10)


def a_stack(arch: str = "lstm", head: str = "recurrent", **more: Any) -> RecurrentStack:
    torch.manual_seed(5)
    return RecurrentStack(arch, (4, 3, 2), 20, head, voltage_offset=-67.7, **more)


def a_card(stack: RecurrentStack) -> ModelCard:
    groups = [
        ChannelGroup("excitatory", 10, "AMPA", sign=1, segments=range(10)),
        ChannelGroup("inhibitory", 10),
    ]
    return ModelCard(
        stack.spec,
        Channels(groups),
        1.0,
        # no float32: a file that rounds would show
        spike_rule=SpikeRule("level", 1 / 3, 6, "hand"),
        segments={"type": ["basal"] * 10, "length_um": [20.5] * 10},
        resting_voltage_mv=-76.0,
        input_rate_hz={"excitatory": [0.5, 1.5], "inhibitory": [1.0, 2.0]},
        recipe={"name": "tuned", "epochs": 3},
        seed=1,
        metrics={"roc_auc": 0.95},
    )


def sealed(content: bytes) -> bytes:
    """``content`` with a digest that holds: changes on purpose pass the seal."""
    before, mark, after = content.partition(rb"sha256\": \"")
    before += mark
    digest = hashlib.sha256(before + b"0" * 64 + after[64:]).hexdigest()
    return before + digest.encode() + after[64:]


def rewrite(path: Path, change: Callable[[dict, dict], None]) -> None:
    """Let ``change`` alter the weights and what stands with them in the metadata."""
    weights = safetensors.numpy.load(path.read_bytes())
    with safetensors.safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["surrogate-model"])
    change(weights, about)
    text = about if isinstance(about, str) else json.dumps(about)
    path.write_bytes(sealed(safetensors.numpy.save(weights, {"surrogate-model": text})))
