"""ONNX Runtime as a peer: the stack as a graph of its RNN, GRU or LSTM operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surrogate.benchmarks.contenders import Contender, SequenceContender, StepContender
from surrogate.benchmarks.peers import Precision, Unavailable, dense_input
from surrogate.benchmarks.problems import Problem, join_state, split_state
from surrogate.kernels import StackSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["onnx_candidates", "stack_to_onnx"]

# ONNX orders the gates i, o, f, c and z, r, h; torch.nn i, f, g, o and r, z, n.
# https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html
_GATE_ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
_OPSET = 17
_IR_VERSION = 8


def onnx_candidates(problem: Problem) -> list[Callable[[], Contender]]:
    """Ways to run ``problem`` in ONNX Runtime.

    Raises
    ------
    Unavailable
        If onnx or onnxruntime is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"onnxruntime is left out: {error.name} is not installed; "
            "python -m pip install 'surrogate-neuron[bench]'"
        ) from error
    if problem.case.mode == "step":
        return [lambda: OnnxBoundSteps(problem), lambda: OnnxSteps(problem)]
    return [lambda: OnnxSequence(problem)]


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
    """
    from onnx import TensorProto, helper, numpy_helper

    attributes: dict[str, Any] = {"linear_before_reset": 1} if spec.arch == "gru" else {}
    constants = [numpy_helper.from_array(np.array([1], np.int64), "direction")]
    nodes: list[onnx.NodeProto] = []
    states: list[tuple[str, int]] = []  # number and size of each part of the state
    source, last = "x", len(spec.recurrent_sizes) - 1
    for index, size in enumerate(spec.recurrent_sizes):
        names = [f"{name}{index}" for name in ("w", "r", "b")]
        arrays = _parameters(spec.arch, weights, index)
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
                spec.arch.upper(),
                [source, *names, "", *(f"state_{part}" for part in parts)],
                [target, *(f"after_{part}" for part in parts)],
                hidden_size=size,
                **attributes,
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
    arch: str, weights: Mapping[str, Tensor], index: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """W, R and B of layer ``index``, each with ONNX's leading axis of directions."""

    def reordered(name: str) -> NDArray[np.float32]:
        gates = weights[f"layers.{index}.{name}_l0"].chunk(len(_GATE_ORDER[arch]))
        return torch.cat([gates[gate] for gate in _GATE_ORDER[arch]]).numpy()[None]

    bias = np.concatenate([reordered("bias_ih"), reordered("bias_hh")], 1)
    return reordered("weight_ih"), reordered("weight_hh"), bias


def _session(problem: Problem) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = stack_to_onnx(problem.case.spec, problem.weights)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _states(problem: Problem) -> dict[str, NDArray[np.float32]]:
    parts = split_state(problem.case.spec, problem.state)
    return {f"state_{index}": part[None].numpy() for index, part in enumerate(parts)}


def _join(arrays: list[NDArray[np.float32]]) -> Tensor:
    return join_state([torch.from_numpy(array) for array in arrays])


class OnnxSequence(SequenceContender):
    """A batch of sequences, forward alone."""

    variant = "RNN operators"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, "onnxruntime")
        self.session = _session(problem)
        self.feed = {"x": dense_input(problem, Precision()).numpy(), **_states(problem)}

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def forward(self) -> tuple[Tensor, Tensor]:
        outputs, *after = self.session.run(None, self.feed)
        return torch.from_numpy(outputs[:, 0]).transpose(0, 1), _join(after)


class OnnxSteps(StepContender):
    """One bin per call through ``session.run``, the states handed back as arrays."""

    variant = "session.run"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, "onnxruntime")
        self.session = _session(problem)
        self.inputs = list(dense_input(problem, Precision())[:, None].numpy())
        self.initial = _states(problem)
        self.reset()

    def reset(self) -> None:
        self.feed = dict(self.initial)

    def step(self, index: int) -> Tensor:
        self.feed["x"] = self.inputs[index]
        outputs, *after = self.session.run(None, self.feed)
        self.feed.update(zip(self.initial, after, strict=True))
        return torch.from_numpy(outputs[0, 0])

    def state(self) -> Tensor:
        return _join([self.feed[name] for name in self.initial])

    def run(self) -> None:
        run, feed, names = self.session.run, self.feed, list(self.initial)
        for x in self.inputs:
            feed["x"] = x
            _, *after = run(None, feed)
            feed.update(zip(names, after, strict=True))


class OnnxBoundSteps(StepContender):
    """One bin per call with everything bound beforehand; states alternate between two buffers."""

    variant = "IO binding"

    def __init__(self, problem: Problem) -> None:
        from onnxruntime import OrtValue

        super().__init__(problem, "onnxruntime")
        self.session = _session(problem)
        self.initial = _states(problem)
        self.outputs = OrtValue.ortvalue_from_numpy(
            np.zeros((1, 1, problem.case.batch, 2), np.float32)
        )
        # An OrtValue on the CPU is a view of its array, so each buffer needs a copy.
        self.buffers = [
            {
                name: OrtValue.ortvalue_from_numpy(array.copy())
                for name, array in self.initial.items()
            }
            for _ in range(2)
        ]
        dense = dense_input(problem, Precision())[:, None].numpy()
        self.bindings = [
            self._bind(OrtValue.ortvalue_from_numpy(x), index) for index, x in enumerate(dense)
        ]
        self.reset()

    def _bind(self, x: onnxruntime.OrtValue, index: int) -> onnxruntime.IOBinding:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("outputs", self.outputs)
        for name, value in self.buffers[index % 2].items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self.buffers[(index + 1) % 2].items():
            binding.bind_ortvalue_output(name.replace("state", "after"), value)
        return binding

    def reset(self) -> None:
        for name, array in self.initial.items():
            self.buffers[0][name].update_inplace(array)

    def step(self, index: int) -> Tensor:
        self.session.run_with_iobinding(self.bindings[index])
        return torch.from_numpy(self.outputs.numpy()[0, 0])

    def state(self) -> Tensor:
        # A pass is an even number of bins, so it ends where it began.
        return _join([value.numpy() for value in self.buffers[0].values()])

    def run(self) -> None:
        run = self.session.run_with_iobinding
        for binding in self.bindings:
            run(binding)
