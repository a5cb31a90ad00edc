"""A stack as an ONNX graph of its RNN, GRU or LSTM operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import UsageError
from surrogate.kernels import StackSpec
from surrogate.kernels.architectures import OnnxOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

__all__ = ["stack_to_onnx"]

_OPSET = 17
_IR_VERSION = 8


def stack_to_onnx(spec: StackSpec, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """An ONNX graph of ``spec``: ``(x, state_0, ...) -> (outputs, after_0, ...)``.

    Parameters
    ----------
    spec : StackSpec
        With a recurrent head.
    weights : mapping of str to Tensor
        Canonical parameters, float32.

    Returns
    -------
    onnx.ModelProto
        ``x`` is [steps, batch, input_size], ``outputs`` [steps, 1, batch, 2], and every state
        [1, batch, H]: layers in order, h then c.

    Raises
    ------
    UsageError
        If ONNX has no operator for the architecture.
    """
    from onnx import TensorProto, helper, numpy_helper

    operator = spec.architecture.onnx if spec.branches is None else None
    if operator is None:
        raise UsageError(f"{spec.name} has no operators in ONNX")
    constants = [numpy_helper.from_array(np.array([1], np.int64), "direction")]
    nodes: list[onnx.NodeProto] = []
    states: list[tuple[str, int]] = []  # number and size of each part of the state
    source, last = "x", len(spec.recurrent_sizes) - 1
    for index, size in enumerate(spec.recurrent_sizes):
        names = [f"{name}{index}" for name in ("w", "r", "b")]
        arrays = _parameters(operator, weights, index)
        constants += map(numpy_helper.from_array, arrays, names)
        if index:
            # The direction axis, always 1 long, stands between steps and batch.
            nodes.append(helper.make_node("Squeeze", [source, "direction"], [f"x{index}"]))
            source = f"x{index}"
        parts = [str(len(states) + part) for part in range(len(spec.state_slices[index]))]
        states += [(part, size) for part in parts]
        target = "outputs" if index == last else f"y{index}"
        nodes.append(
            helper.make_node(
                operator.name,
                [source, *names, "", *(f"state_{part}" for part in parts)],
                [target, *(f"after_{part}" for part in parts)],
                hidden_size=size,
                **operator.attributes,
            )
        )
        source = target

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "stack",
        [value("x", "steps", "batch", spec.input_size)]
        + [value(f"state_{part}", 1, "batch", size) for part, size in states],
        [value("outputs", "steps", 1, "batch", 2)]
        + [value(f"after_{part}", 1, "batch", size) for part, size in states],
        constants,
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def _parameters(
    operator: OnnxOperator, weights: Mapping[str, Tensor], index: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """W, R and B of layer ``index``, each with ONNX's leading axis of directions."""

    def reordered(name: str) -> NDArray[np.float32]:
        gates = weights[f"layers.{index}.{name}_l0"].chunk(len(operator.gate_order))
        return torch.cat([gates[gate] for gate in operator.gate_order]).numpy()[None]

    bias = np.concatenate([reordered("bias_ih"), reordered("bias_hh")], 1)
    return reordered("weight_ih"), reordered("weight_hh"), bias
