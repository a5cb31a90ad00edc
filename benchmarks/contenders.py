"""Implementations that are compared, ours and the peers': they give results and can be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate.benchmarks.problems import Problem
from surrogate.kernels import default_provider, run_stack
from surrogate.kernels.stepper import Stepper

__all__ = [
    "Contender",
    "OurSteps",
    "SequenceContender",
    "StackContender",
    "StepContender",
    "Unavailable",
    "allow_tf32",
    "dense_input",
    "ours",
]


class Unavailable(Exception):
    """A peer that cannot be measured here; the message says why and how to get it."""


def allow_tf32(allowed: bool) -> None:
    """Whether torch's float32 products may run in tf32 from now on, in the whole process."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def dense_input(problem: Problem, dtype: torch.dtype = torch.float32, multiple: int = 1) -> Tensor:
    """The input as zeros and ones [steps, batch, inputs], time first and contiguous.

    Inputs are padded with zeros to a multiple of ``multiple``.
    """
    dense = problem.events.to_dense(problem.case.spec.input_size, dtype).transpose(0, 1)
    return F.pad(dense, (0, -dense.shape[-1] % multiple)).contiguous()


class Contender(ABC):
    """One implementation, with the inputs of one problem in the form that suits it best.

    Attributes
    ----------
    name : str
        Its name in the table.
    variant : str
        Which of its configurations this is.
    problem : Problem
    """

    variant = ""

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem = problem
        self.name = name

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """What it computes from the problem's state, float32 on the CPU.

        ``outputs`` [batch, steps, 2], ``state`` [batch, state_size], and in mode train the
        gradient of each parameter by its canonical name.
        """

    @abstractmethod
    def run(self) -> None:
        """What is timed: one pass over the problem's input, ``problem.case.calls`` calls."""


class SequenceContender(Contender):
    """A batch of sequences in one call, forward alone or with backward."""

    upstream: Tensor

    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """The tensors whose gradients mode train asks for, by canonical name."""

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Outputs, in the layout of ``upstream``, and the final state [batch, state_size]."""

    def run(self) -> None:
        self._forward_and_backward()

    def values(self) -> dict[str, Tensor]:
        outputs, state = self._forward_and_backward()
        found = {"outputs": outputs, "state": state}
        if self.problem.case.mode == "train":
            found |= {name: p.grad for name, p in self.parameters().items() if p.grad is not None}
        return {name: value.detach().float().cpu().clone() for name, value in found.items()}

    def _forward_and_backward(self) -> tuple[Tensor, Tensor]:
        if self.problem.case.mode != "train":
            with torch.inference_mode():
                return self.forward()
        for parameter in self.parameters().values():
            parameter.grad = None
        outputs, state = self.forward()
        outputs.backward(self.upstream)
        return outputs, state


class StepContender(Contender):
    """All neurons advanced by one bin per call, the state carried from call to call."""

    @abstractmethod
    def reset(self) -> None:
        """Go back to the problem's state."""

    @abstractmethod
    def step(self, index: int) -> Tensor:
        """Advance by bin ``index``; the outputs [neurons, 2]."""

    @abstractmethod
    def state(self) -> Tensor:
        """The state now, [neurons, state_size]."""

    def values(self) -> dict[str, Tensor]:
        self.reset()
        steps = range(self.problem.case.calls)
        outputs = [self.step(index).float().cpu().clone() for index in steps]
        # The timed loop is not the one above, so its result is compared.
        self.reset()
        self.run()
        return {"outputs": torch.stack(outputs, 1), "state": self.state().float().cpu().clone()}


class StackContender(SequenceContender):
    """``run_stack`` with one of its providers."""

    def __init__(self, problem: Problem, name: str = "ours", provider: str | None = None) -> None:
        super().__init__(problem, name)
        self.provider = provider
        self.variant = provider or default_provider(problem.case.device)
        train = problem.case.mode == "train"
        self.weights = {
            key: weight.clone().requires_grad_(train) for key, weight in problem.weights.items()
        }
        self.upstream = problem.upstream

    def parameters(self) -> Mapping[str, Tensor]:
        return self.weights

    def forward(self) -> tuple[Tensor, Tensor]:
        problem = self.problem
        allow_tf32(
            False
        )  # the peer before may have changed it, and our weight gradients are products, too
        return run_stack(
            problem.case.spec, self.weights, problem.events, problem.state, self.provider
        )


class OurSteps(StepContender):
    """The stepwise kernels, through the Python call."""

    def __init__(self, problem: Problem, provider: str | None = None) -> None:
        super().__init__(problem, "ours")
        case = problem.case
        self.bins: list[tuple[Any, Any]]
        self.stepper: Any
        if case.device == "cpu":
            self.stepper = Stepper(
                case.spec,
                problem.weights,
                case.batch,
                provider=provider,
                threads=torch.get_num_threads(),
            )
            self.variant = self.stepper.provider
            self.bins = [(channel.numpy(), row_ptr.numpy()) for channel, row_ptr in problem.bins()]
        else:
            from surrogate.kernels.triton.step.stepper import TritonStepper

            self.stepper = TritonStepper(case.spec, problem.weights, case.batch)
            self.variant = "triton"
            self.bins = problem.bins()
        self.reset()

    def reset(self) -> None:
        self.state().copy_(self.problem.state)

    def step(self, index: int) -> Tensor:
        self.stepper.step(*self.bins[index])
        return torch.as_tensor(self.stepper.outputs)

    def state(self) -> Tensor:
        return torch.as_tensor(self.stepper.state)

    def run(self) -> None:
        step = self.stepper.step
        for channel, row_ptr in self.bins:
            step(channel, row_ptr)


def ours(problem: Problem, provider: str | None = None) -> Contender:
    """What this package uses for ``problem``: by default the fastest provider here."""
    if problem.case.mode == "step":
        return OurSteps(problem, provider)
    return StackContender(problem, "ours", provider)
