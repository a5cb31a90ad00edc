"""The one entry: run a stack over events with whichever provider serves the device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from surrogate.kernels import cpu, triton
from surrogate.kernels.architectures import ARCHITECTURES
from surrogate.kernels.cpu.provider import run_stack_cpu
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.reference import run_stack_reference
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.torch_stack import run_stack_torch

__all__ = ["PROVIDERS", "default_provider", "run_models", "run_stack"]

Provider = Callable[[StackSpec, Mapping[str, Tensor], SpikeEvents, Tensor], tuple[Tensor, Tensor]]

#: Implementations of one operation, by name. ``reference`` is the specification of the others.
PROVIDERS: dict[str, Provider] = {
    "reference": run_stack_reference,
    "torch": run_stack_torch,
    "cpu": run_stack_cpu,
    "triton": triton.run_stack_triton,
}


def default_provider(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    arch: str | None = None,
) -> str:
    """The provider used where none is named: the fastest for weights of this device and dtype.

    Of those that have ``arch``, a key of :data:`surrogate.kernels.ARCHITECTURES`, where one is
    given; the reference has all of them.

    Where that is not the device's own, a line on stderr says so, once.
    """
    device = torch.device(device)
    architecture = None if arch is None else ARCHITECTURES[arch]
    if architecture is not None and architecture.torch_layer is None:
        return "reference"
    if device.type == "cpu":
        if architecture is not None and architecture.cpp_code is None:
            return "torch"
        in_cpp = dtype in (torch.float32, torch.float64) and cpu.load() is not None
        return "cpu" if in_cpp else "torch"
    has_cell = architecture is None or architecture.triton
    if has_cell and triton.usable(device, dtype):
        return "triton"
    _tell_once(
        f"surrogate: no Triton kernels for {dtype} on {device.type} here "
        f"({triton.available() or 'not this dtype or GPU'}); computing with torch, which is slower"
    )
    return "torch"


@functools.cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)


def run_stack(
    spec: StackSpec,
    weights: Mapping[str, Tensor],
    events: SpikeEvents,
    state: Tensor | None = None,
    provider: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a stack of recurrent layers over spike events, differentiably.

    Parameters
    ----------
    spec : StackSpec
    weights : mapping of str to Tensor
        By the canonical names and shapes of :meth:`StackSpec.parameter_shapes`, of one dtype
        and on one device.
    events : SpikeEvents
        ``batch`` sequences of ``steps`` bins; at least one of each.
    state : Tensor [batch, spec.state_size], optional
        State before the first bin, zeros if not given: layers in order, h then c.
    provider : str, optional
        A key of :data:`PROVIDERS`; by default :func:`default_provider` chooses.

    Returns
    -------
    outputs : Tensor [batch, steps, 2]
        Spike logit, and the voltage before scale and offset.
    state : Tensor [batch, spec.state_size]
        State after the last bin.

    Raises
    ------
    ValueError
        If a weight is missing, a shape does not fit, a sequence is empty, or the provider is
        unknown or not available.
    """
    if missing := [name for name in spec.parameter_shapes() if name not in weights]:
        raise ValueError(f"weights lack {', '.join(missing)}")
    first = weights["layers.0.weight_ih_l0"]
    expected = (events.batch, spec.state_size)
    if state is None:
        state = torch.zeros(expected, dtype=first.dtype, device=first.device)
    if tuple(state.shape) != expected:
        raise ValueError(f"state has shape {tuple(state.shape)}, expected {expected}")
    if events.batch < 1 or events.steps < 1:
        raise ValueError(
            f"events hold {events.batch} sequences of {events.steps} bins: none to run"
        )
    if tuple(first.shape) != spec.parameter_shapes()["layers.0.weight_ih_l0"]:
        raise ValueError(
            f"layers.0.weight_ih_l0 has shape {tuple(first.shape)}, expected "
            f"{spec.parameter_shapes()['layers.0.weight_ih_l0']}"
        )
    name = provider or default_provider(first.device, first.dtype, spec.arch)
    if name not in PROVIDERS:
        raise ValueError(f"unknown provider {name!r}: expected one of {', '.join(PROVIDERS)}")
    return PROVIDERS[name](spec, weights, events, state)


def run_models(
    spec: StackSpec,
    weights: Mapping[str, Tensor],
    events: SpikeEvents,
    state: Tensor,
    provider: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run M models of one configuration over spike events, differentiably.

    On a GPU they share every launch. On a CPU they run one after the other, for they would gain
    nothing. Either way each gives what :func:`run_stack` gives.

    Parameters
    ----------
    spec : StackSpec
    weights : mapping of str to Tensor [M, ...]
        By the canonical names of :meth:`StackSpec.parameter_shapes`, a model axis first.
    events : SpikeEvents
        B sequences that all models share, or M * B, those of model m from m * B on.
    state : Tensor [M, B, spec.state_size]
        State before the first bin.
    provider : str, optional
        As for :func:`run_stack`.

    Returns
    -------
    outputs : Tensor [M, B, steps, 2]
        Spike logit, and the voltage before scale and offset.
    state : Tensor [M, B, spec.state_size]
        State after the last bin.

    Raises
    ------
    ValueError
        If ``events`` hold another number of sequences, or for what :func:`run_stack` refuses.
    """
    models, batch, _ = state.shape
    if events.batch not in (batch, models * batch):
        raise ValueError(
            f"events hold {events.batch} sequences, expected {batch} for all {models} models or "
            f"{models * batch}, {batch} for each"
        )
    if (provider or default_provider(state.device, state.dtype, spec.arch)) == "triton":
        return triton.run_models_triton(spec, weights, events, state)
    results = [
        run_stack(
            spec,
            {name: value[model] for name, value in weights.items()},
            events if events.batch == batch else events.slice_batch(model * batch, batch),
            state[model],
            provider,
        )
        for model in range(models)
    ]
    outputs, final = zip(*results, strict=True)
    return torch.stack(outputs), torch.stack(final)
