"""ONNX Runtime as a peer, with the stack as a graph of its recurrent operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from surrogate.benchmarks.contenders import (
    Contender,
    SequenceContender,
    StepContender,
    Unavailable,
    dense_input,
)
from surrogate.benchmarks.problems import Problem, join_state, split_state
from surrogate.model.onnx import stack_to_onnx

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["onnx_candidates"]


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
        self.feed = {"x": dense_input(problem).numpy(), **_states(problem)}

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def forward(self) -> tuple[Tensor, Tensor]:
        outputs, *after = self.session.run(None, self.feed)
        return torch.from_numpy(outputs[:, 0]).transpose(0, 1), _join(after)


class OnnxSteps(StepContender):
    """One bin per call through ``session.run``, the states passed back as arrays."""

    variant = "session.run"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, "onnxruntime")
        self.session = _session(problem)
        self.inputs = list(dense_input(problem)[:, None].numpy())
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
        dense = dense_input(problem)[:, None].numpy()
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
        # A pass has an even number of bins, so it ends with the buffer that it began with.
        return _join([value.numpy() for value in self.buffers[0].values()])

    def run(self) -> None:
        run = self.session.run_with_iobinding
        for binding in self.bindings:
            run(binding)
