"""What a user would otherwise call: torch.nn, cuDNN, ONNX Runtime, event-driven torch.

Every peer gets its best case: its input dense and ready on its device, sequences time first, and
where there are several ways to use it, each is tried and the fastest is measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surrogate.benchmarks.contenders import (
    Contender,
    SequenceContender,
    StackContender,
    StepContender,
    allow_tf32,
    dense_input,
)
from surrogate.benchmarks.onnx_peer import onnx_candidates
from surrogate.benchmarks.problems import Case, Problem, join_state, split_state
from surrogate.kernels import StackSpec, run_stack

__all__ = [
    "PRECISIONS",
    "Precision",
    "TorchSequence",
    "candidates",
    "peer_names",
]


@dataclass(frozen=True)
class Precision:
    """How a torch.nn peer computes.

    Attributes
    ----------
    dtype : torch.dtype
        Of weights, input and state.
    tf32 : bool
        Whether float32 products may run in tf32. Only GPUs have it.
    multiple : int
        The input is padded with zeros to a multiple of this.
    """

    dtype: torch.dtype = torch.float32
    tf32: bool = False
    multiple: int = 1


#: torch.nn as its users run it: on a GPU that is cuDNN, in three precisions.
PRECISIONS = {
    "torch.nn": Precision(),
    "cudnn-tf32": Precision(tf32=True),
    "cudnn-fp32": Precision(),
    "cudnn-fp16": Precision(torch.float16, multiple=8),
}


def peer_names(case: Case) -> tuple[str, ...]:
    """The peers of ``case``, whether they are installed or not."""
    if case.device != "cpu":
        return ("cudnn-tf32", "cudnn-fp32", "cudnn-fp16")
    if case.mode == "train":
        return ("torch.nn", "torch.events")
    return ("torch.nn", "onnxruntime", "torch.events")


def candidates(name: str, problem: Problem) -> list[Callable[[], Contender]]:
    """The ways to use peer ``name`` on ``problem``; the caller measures which is fastest.

    Raises
    ------
    Unavailable
        If the peer is not installed.
    """
    step = problem.case.mode == "step"
    if name == "onnxruntime":
        return onnx_candidates(problem)
    if name == "torch.events":
        if not step:
            return [lambda: StackContender(problem, name, "torch")]
        return [lambda: StackSteps(problem), lambda: EventSteps(problem)]
    precision = PRECISIONS[name]
    if not step:
        return [lambda: TorchSequence(problem, name, precision)]
    # A million neurons' input takes gigabytes, so all variants share it.
    dense = cache(partial(dense_input, problem, precision.dtype, precision.multiple))
    if problem.case.device == "cpu":
        return [
            partial(ModuleSteps, problem, name, precision, variant, dense)
            for variant in STEP_VARIANTS
        ]
    return [
        partial(kind, problem, name, precision, variant, dense)
        for kind in (ModuleSteps, GraphModuleSteps)
        for variant in STEP_VARIANTS[:2]
    ]


class _Stack(nn.Module):
    """torch.nn layers one after another: ``(x, *states) -> (outputs, *states)``.

    States are layers in order, h then c. Parameters have the canonical names.
    """

    def __init__(
        self, spec: StackSpec, weights: Mapping[str, Tensor], precision: Precision
    ) -> None:
        super().__init__()
        inputs = -(-spec.input_size // precision.multiple) * precision.multiple
        sizes = (inputs, *spec.recurrent_sizes)
        self.parts = len(spec.architecture.state_parts)
        self.layers = nn.ModuleList(
            self.layer_type(spec)(n_in, size) for n_in, size in pairwise(sizes)
        )
        # Moved before it is filled: moving makes a layer's parameters contiguous, as cuDNN wants.
        self.to(weights["layers.0.weight_ih_l0"].device, precision.dtype)
        with torch.no_grad():
            for parameter, weight in zip(self.parameters(), weights.values(), strict=True):
                padding = parameter.shape[-1] - weight.shape[-1]
                parameter.copy_(F.pad(weight, (0, padding)))

    @staticmethod
    def layer_type(spec: StackSpec) -> type[nn.Module]:
        """Such as nn.LSTM."""
        return spec.architecture.module  # type: ignore[return-value]

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        after: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if self.parts == 1:
                x, h = layer(x, states[index])
                after.append(h)
            else:  # h and c, as a pair
                x, pair = layer(x, states[2 * index : 2 * index + 2])
                after += pair
        return x, *after


class _CellStack(_Stack):
    """The same of torch.nn's cells, for one bin: x [N, I], states [N, H]."""

    @staticmethod
    def layer_type(spec: StackSpec) -> type[nn.Module]:
        """Such as nn.LSTMCell."""
        return getattr(nn, f"{_Stack.layer_type(spec).__name__}Cell")

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        after: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if self.parts == 1:
                x = layer(x, states[index])
                after.append(x)
            else:
                x, c = layer(x, states[2 * index : 2 * index + 2])
                after += [x, c]
        return x, *after


class TorchSequence(SequenceContender):
    """Per-layer torch.nn over a batch of sequences; on a GPU that is cuDNN."""

    def __init__(self, problem: Problem, name: str, precision: Precision) -> None:
        super().__init__(problem, name)
        spec = problem.case.spec
        self.precision = precision
        self.variant = f"nn.{_Stack.layer_type(spec).__name__}, time first"
        # In training mode cuDNN keeps what a backward pass needs, even where there is none.
        self.stack = _Stack(spec, problem.weights, precision).train(problem.case.mode == "train")
        self.dense = dense_input(problem, precision.dtype, precision.multiple)
        self.states = [part[None].to(precision.dtype) for part in split_state(spec, problem.state)]
        self.upstream = problem.upstream.transpose(0, 1).to(precision.dtype).contiguous()

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.stack.named_parameters())

    def forward(self) -> tuple[Tensor, Tensor]:
        allow_tf32(self.precision.tf32)
        outputs, *after = self.stack(self.dense, *self.states)
        return outputs, join_state(after)

    def values(self) -> dict[str, Tensor]:
        found = super().values()
        found["outputs"] = found["outputs"].transpose(0, 1)
        padded = "layers.0.weight_ih_l0"
        if padded in found:
            found[padded] = found[padded][:, : self.problem.case.spec.input_size]
        return found


#: Ways to run one bin with torch.nn: the whole-sequence modules, the cells, and either as a
#: TorchScript trace, frozen and optimised for inference.
STEP_VARIANTS = ("layers", "cells", "layers, traced", "cells, traced")


class ModuleSteps(StepContender):
    """torch.nn, one dense bin per call, in inference mode."""

    def __init__(
        self,
        problem: Problem,
        name: str,
        precision: Precision,
        variant: str,
        dense: Callable[[], Tensor],
    ) -> None:
        super().__init__(problem, name)
        self.precision = precision
        layers, _, traced = variant.partition(", ")
        cells = layers == "cells"
        form = _CellStack if cells else _Stack
        kind = form.layer_type(problem.case.spec).__name__
        self.variant = f"nn.{kind}{', traced' if traced else ''}"
        stack = form(problem.case.spec, problem.weights, precision).eval()
        self.inputs = list(dense() if cells else dense()[:, None])
        parts = split_state(problem.case.spec, problem.state)
        self.initial = [(part if cells else part[None]).to(precision.dtype) for part in parts]
        self.states = self.initial
        self.module = _traced(stack, self.inputs[0], self.initial) if traced else stack

    def reset(self) -> None:
        self.states = self.initial

    @torch.inference_mode()
    def step(self, index: int) -> Tensor:
        allow_tf32(self.precision.tf32)
        outputs, *self.states = self.module(self.inputs[index], *self.states)
        return outputs if outputs.dim() == 2 else outputs[0]

    def state(self) -> Tensor:
        return join_state(self.states)

    @torch.inference_mode()
    def run(self) -> None:
        allow_tf32(self.precision.tf32)
        module, states = self.module, self.states
        for x in self.inputs:
            _, *states = module(x, *states)
        self.states = states


class GraphModuleSteps(ModuleSteps):
    """The same, replayed from a CUDA graph that holds one pass over the bins."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.variant += ", CUDA graph"
        self.kept = [part.clone() for part in self.initial]  # what the graph reads and writes
        self.reset()
        side = torch.cuda.Stream()  # capturing needs it; cuDNN chooses its ways in the first pass
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            super().run()
        torch.cuda.current_stream().wait_stream(side)
        self.reset()
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self.graph):
            super().run()
            for kept, after in zip(self.kept, self.states, strict=True):
                kept.copy_(after)

    def reset(self) -> None:
        for kept, part in zip(self.kept, self.initial, strict=True):
            kept.copy_(part)
        self.states = self.kept

    def run(self) -> None:
        self.graph.replay()
        self.states = self.kept


def _traced(stack: nn.Module, x: Tensor, states: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated and warns at every call
        trace = torch.jit.trace(stack, (x, *states), check_trace=False)
        optimised = torch.jit.optimize_for_inference(trace)
        for _ in range(3):  # its profiling executor compiles during the first calls
            optimised(x, *states)
    return optimised


class StackSteps(StepContender):
    """The torch provider of ``run_stack``, one bin per call."""

    variant = "run_stack"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, "torch.events")
        events = problem.events
        self.bins = [events.slice_steps(t, t + 1) for t in range(events.steps)]
        self.reset()

    def reset(self) -> None:
        self.now = self.problem.state

    @torch.inference_mode()
    def step(self, index: int) -> Tensor:
        outputs, self.now = self._run_stack(index)
        return outputs[:, 0]

    def state(self) -> Tensor:
        return self.now

    @torch.inference_mode()
    def run(self) -> None:
        for index in range(len(self.bins)):
            _, self.now = self._run_stack(index)

    def _run_stack(self, index: int) -> tuple[Tensor, Tensor]:
        spec, weights = self.problem.case.spec, self.problem.weights
        return run_stack(spec, weights, self.bins[index], self.now, "torch")


class EventSteps(StepContender):
    """Event-driven torch for stepping: ``embedding_bag`` on transposed weights."""

    variant = "embedding_bag, transposed once"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, "torch.events")
        spec, weights = problem.case.spec, problem.weights
        self.architecture = spec.architecture
        self.columns = weights["layers.0.weight_ih_l0"].t().contiguous()
        self.layers = [
            tuple(
                weights[f"layers.{index}.{name}_l0"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            for index in range(len(spec.recurrent_sizes))
        ]
        self.bins = [(channel.int(), row_ptr) for channel, row_ptr in problem.bins()]
        self.reset()

    def reset(self) -> None:
        parts = split_state(self.problem.case.spec, self.problem.state)
        width = len(self.architecture.state_parts)
        self.states = [tuple(parts[at : at + width]) for at in range(0, len(parts), width)]

    @torch.inference_mode()
    def step(self, index: int) -> Tensor:
        return self._advance(*self.bins[index])

    def state(self) -> Tensor:
        return join_state([part for parts in self.states for part in parts])

    @torch.inference_mode()
    def run(self) -> None:
        for channel, row_ptr in self.bins:
            self._advance(channel, row_ptr)

    def _advance(self, channel: Tensor, row_ptr: Tensor) -> Tensor:
        x = F.embedding_bag(channel, self.columns, row_ptr, mode="sum", include_last_offset=True)
        for index, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(self.layers):
            before = self.states[index]
            from_input = F.linear(x, weight_ih, bias_ih) if index else x + bias_ih
            from_hidden = F.linear(before[0], weight_hh, bias_hh)
            self.states[index] = self.architecture.step(from_input, from_hidden, before)
            x = self.states[index][0]
        return x
