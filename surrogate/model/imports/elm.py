"""The checkpoints that Spieler et al. (2024) published of their ELM neuron."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from surrogate import datasets, machine
from surrogate.errors import DataError
from surrogate.files import check_is_file
from surrogate.kernels import StackSpec
from surrogate.kernels.branches import MAX_BRANCHES, Branches
from surrogate.kernels.spec import MAX_HIDDEN_SIZE
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model
from surrogate.model.stack import RecurrentStack
from surrogate.stored import read_json
from surrogate.validated import validate, validated

__all__ = ["read_elm"]

CONFIG, WEIGHTS = "model_config.json", "neuronio_best_model_state.pt"

#: Of the bundled sample's neuron, whose input they read: both kinds of synapse on 639 segments.
INPUTS = 1278


@validated("ELM configuration")
@dataclass(frozen=True)
class _Config:
    num_input: Literal[1278]
    num_output: Literal[2]
    num_memory: Annotated[int, Field(ge=1, le=MAX_HIDDEN_SIZE)]
    memory_tau_min: Annotated[float, Field(gt=0)]
    memory_tau_max: Annotated[float, Field(gt=0)]
    num_branch: Annotated[int, Field(ge=1, le=MAX_BRANCHES)]
    num_synapse_per_branch: Annotated[int, Field(ge=1, le=INPUTS)]
    input_to_synapse_routing: Literal["neuronio_routing"]
    learn_memory_tau: bool = False
    mlp_activation: Literal["relu", "silu"] = "relu"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors in the state dict."""
        m, synapses = self.num_memory, self.num_branch * self.num_synapse_per_branch
        return {
            "_proto_w_s": (synapses,),
            "tau_s": (synapses,),
            "_proto_tau_m": (m,),
            "input_to_synapse_indices": (synapses,),
            "valid_indices_mask": (synapses,),
            "mlp.network.0.weight": (2 * m, self.num_branch + m),
            "mlp.network.0.bias": (2 * m,),
            "mlp.network.2.weight": (m, 2 * m),
            "mlp.network.2.bias": (m,),
            "w_y.weight": (2, m),
            "w_y.bias": (2,),
        }


def read_elm(folder: str | os.PathLike[str]) -> Model:
    """The model in a folder of ``model_config.json`` and ``neuronio_best_model_state.pt``.

    The state dict is read without running code from it. The model has no spike rule yet.

    Raises
    ------
    UsageError
        If the configuration is of another kind of ELM than the published ones.
    DataError
        If a file is missing, or is not what it should be.
    """
    for name in (CONFIG, WEIGHTS):
        check_is_file(Path(folder, name))
    try:
        config = validate(_Config, read_json(Path(folder, CONFIG)), "ELM configuration")
    except ValueError as error:
        raise DataError(f"{Path(folder, CONFIG)}: not JSON ({error})") from error
    found = _read_weights(Path(folder, WEIGHTS), config)
    size, per_branch = config.num_memory, config.num_synapse_per_branch
    valid = found["valid_indices_mask"].bool().unflatten(0, (-1, per_branch))
    indices = found["input_to_synapse_indices"].long().unflatten(0, (-1, per_branch))
    fed_by = [row[kept].tolist() for row, kept in zip(indices, valid, strict=True)]
    spec = StackSpec(
        "elm" if config.mlp_activation == "relu" else "elm_silu",
        (size, 2),
        INPUTS,
        "linear",
        voltage_scale=10.0,  # their second output is (V + 67.7 mV) / 10 mV
        voltage_offset=-67.7,
        branches=Branches(fed_by, [1] * (INPUTS // 2) + [-1] * (INPUTS // 2), "relu", "none"),
    )
    stack = RecurrentStack.from_spec(spec)
    stack.load_state_dict(_weights(config, found, valid))
    with datasets.open() as sample:  # the same neuron
        card = ModelCard(
            spec,
            sample.channels,
            sample.dt_ms,
            segments={name: column.tolist() for name, column in sample.segments.items()},
            recipe={"imported": asdict(config)},
            versions=machine.versions(),
        )
    return Model(stack.eval(), card)


def _read_weights(path: Path, config: _Config) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: no state dict that torch reads ({line:.200})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a state dict")
    for name, shape in config.shapes.items():
        value = found.get(name)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            what = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else "is missing"
            raise DataError(f"{path}: {name} {what}, the configuration needs {shape}")
        if not value.isfinite().all():
            raise DataError(f"{path}: {name} holds values that are not finite")
    return found


def _weights(config: _Config, found: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """Our parameters, in float64 until the last: time constants are close to their limits."""
    theirs = {name: found[name].double() for name in config.shapes}
    tau_s = theirs["tau_s"].unflatten(0, valid.shape)
    if (tau_s != tau_s[:, :1]).any():
        raise DataError("an ELM whose branches have synapses of different tau_s: not supported")
    span = config.memory_tau_max - config.memory_tau_min
    tau_m = config.memory_tau_min + span * torch.sigmoid(theirs["_proto_tau_m"])
    into_hidden = theirs["mlp.network.0.weight"]
    ours = {
        "branches.weight": theirs["_proto_w_s"][valid.flatten()],
        "branches.log_tau": tau_s[:, 0].log(),
        "layers.0.weight_ih_l0": into_hidden[:, : config.num_branch],
        # Their MLP sees kappa m, ours m.
        "layers.0.weight_hh_l0": into_hidden[:, config.num_branch :] * torch.exp(-1 / tau_m),
        "layers.0.bias_ih_l0": theirs["mlp.network.0.bias"],
        "layers.0.bias_hh_l0": torch.zeros_like(theirs["mlp.network.0.bias"]),
        "layers.0.weight_out": theirs["mlp.network.2.weight"],
        "layers.0.bias_out": theirs["mlp.network.2.bias"],
        "layers.0.log_tau": tau_m.log(),
        "head.weight": theirs["w_y.weight"],
        "head.bias": theirs["w_y.bias"],
    }
    return {name: value.float() for name, value in ours.items()}
