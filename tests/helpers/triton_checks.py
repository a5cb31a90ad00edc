"""What a stack's Triton kernels are compared with, in the interpreter and on a GPU alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from surrogate.kernels import SpikeEvents, StackSpec
from surrogate.kernels.reference import run_stack_reference

Run = Callable[[StackSpec, Mapping[str, Tensor], SpikeEvents, Tensor], tuple[Tensor, Tensor]]


def problem(
    spec: StackSpec, batch: int, steps: int, models: int | None = None, scale: float = 0.4
) -> tuple[dict[str, Tensor], SpikeEvents, Tensor]:
    """Weights, events and a nonzero state in float64, for M models a leading axis on the first."""
    generator = torch.Generator().manual_seed(batch * 1000 + steps)
    leading = () if models is None else (models,)
    weights = {
        name: torch.randn(*leading, *shape, generator=generator, dtype=torch.float64) * scale
        for name, shape in spec.parameter_shapes().items()
    }
    sequences = batch * (models or 1)
    dense = torch.rand(sequences, steps, spec.input_size, generator=generator) < 0.3
    shape = (*leading, batch, spec.state_size)
    state = torch.randn(shape, generator=generator, dtype=torch.float64)
    return weights, SpikeEvents.from_dense(dense), state


def values_and_gradients(
    run: Run,
    spec: StackSpec,
    weights: Mapping[str, Tensor],
    events: SpikeEvents,
    state: Tensor,
    **where: Any,
) -> list[Tensor]:
    """Outputs, final state, and gradients of a random weighting of both, on the CPU in float64.

    ``where`` is the dtype and the device to run in.
    """
    leaves = {name: value.to(**where).requires_grad_() for name, value in weights.items()}
    initial = state.to(**where).requires_grad_()
    outputs, final = run(spec, leaves, events.to(initial.device), initial)
    generator = torch.Generator().manual_seed(7)
    loss = sum(
        (part * torch.randn(part.shape, generator=generator).to(part)).sum()
        for part in (outputs, final)
    )
    gradients = torch.autograd.grad(loss, [*leaves.values(), initial])
    return [part.detach().cpu().double() for part in (outputs, final, *gradients)]


def error(ours: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, relative to the largest entry of its tensor where that exceeds 1."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() if a.isfinite().all() else 1e30
        for a, b in zip(ours, exact, strict=True)
    )


def error_against_reference(
    run: Run, spec: StackSpec, batch: int, steps: int, scale: float = 0.4, **where: Any
) -> float:
    """:func:`error` of values and gradients against the reference in float64."""
    weights, events, state = problem(spec, batch, steps, scale=scale)
    ours = values_and_gradients(run, spec, weights, events, state, **where)
    exact = values_and_gradients(run_stack_reference, spec, weights, events, state)
    return error(ours, exact)


def run_models_one_by_one(run: Run, per_model: bool) -> Run:
    """``run`` over models in turn, from and to tensors with a model axis."""

    def run_models(
        spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        results = []
        for model in range(len(state)):
            own = events
            if per_model:
                rows = events.to_dense(spec.input_size).chunk(len(state))[model]
                own = SpikeEvents.from_dense(rows)
            of_model = {name: value[model] for name, value in weights.items()}
            results.append(run(spec, of_model, own, state[model]))
        outputs, final = zip(*results, strict=True)
        return torch.stack(outputs), torch.stack(final)

    return run_models
