"""Random stacks with their input, and what a provider makes of them: for tests of the kernels."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from surrogate.kernels import PROVIDERS, SpikeEvents, StackSpec, cpu, run_stack
from surrogate.kernels.branches import Branches

built = pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
# The Triton kernels have suites of their own, for the interpreter and for a GPU.
EVERY = [
    pytest.param(name, marks=built if name == "cpu" else ())
    for name in PROVIDERS
    if name != "triton"
]
FAST = [each for each in EVERY if each.values != ("reference",)]


def poison_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory holds NaN, so that a value read before it is written shows."""

    def poison(function):
        def filled(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return filled

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


def irregular_branches(
    inputs: int, weights: str = "softplus", saturation: str = "tanh", count: int = 7
) -> Branches:
    """Branches of different sizes, one of them empty, on channels of either sign or of none."""
    rng = random.Random(inputs)
    channels = [rng.sample(range(inputs), rng.randint(1, inputs)) for _ in range(count)]
    channels[count // 2] = []
    return Branches(
        channels, [rng.choice((1, 1, -1, -1, 0)) for _ in range(inputs)], weights, saturation
    )


def problem(
    spec: StackSpec, batch: int, steps: int, dtype: torch.dtype = torch.float64, rate: float = 0.3
) -> tuple[dict[str, Tensor], SpikeEvents, Tensor]:
    """Weights, events and a state, all random; what has gradients requires them."""
    generator = torch.Generator().manual_seed(batch * 1000 + steps)
    weights = {
        name: (torch.randn(shape, generator=generator, dtype=dtype) * 0.4).requires_grad_()
        for name, shape in spec.parameter_shapes().items()
    }
    dense = torch.rand(batch, steps, spec.input_size, generator=generator) < rate
    state = torch.randn(batch, spec.state_size, generator=generator, dtype=dtype)
    return weights, SpikeEvents.from_dense(dense), state.requires_grad_()


def values_and_gradients(spec, weights, events, state, provider) -> list[Tensor]:
    """Outputs, final state, and gradients of a random weighting of both."""
    outputs, final = run_stack(spec, weights, events, state, provider)
    generator = torch.Generator().manual_seed(7)
    loss = sum(
        (part * torch.randn(part.shape, generator=generator, dtype=torch.float64)).sum()
        for part in (outputs, final)
    )
    return [outputs, final, *torch.autograd.grad(loss, [*weights.values(), state])]
