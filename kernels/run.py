"""Runs a stack over events with the provider for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import Provider
from surrogate.kernels.providers import PROVIDERS, default_provider
from surrogate.kernels.spec import StackSpec

__all__ = ["run_models", "run_stack"]


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
    _check(spec, weights, events)
    first = weights["layers.0.weight_ih_l0"]
    expected = (events.batch, spec.state_size)
    if state is None:
        state = torch.zeros(expected, dtype=first.dtype, device=first.device)
    if tuple(state.shape) != expected:
        raise ValueError(f"state has shape {tuple(state.shape)}, expected {expected}")
    chosen = _provider(provider, spec, first)
    return chosen.run(spec, weights, events, state)


def _check(spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents) -> None:
    if missing := [name for name in spec.parameter_shapes() if name not in weights]:
        raise ValueError(f"weights lack {', '.join(missing)}")
    if events.batch < 1 or events.steps < 1:
        raise ValueError(
            f"events hold {events.batch} sequences of {events.steps} bins: none to run"
        )
    found = tuple(weights["layers.0.weight_ih_l0"].shape)
    expected = spec.parameter_shapes()["layers.0.weight_ih_l0"]
    if found != expected:
        raise ValueError(f"layers.0.weight_ih_l0 has shape {found}, expected {expected}")


def _provider(name: str | None, spec: StackSpec, weight: Tensor) -> Provider:
    name = name or default_provider(weight.device, weight.dtype, spec)
    if name not in PROVIDERS:
        raise ValueError(f"unknown provider {name!r}: expected one of {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def run_models(
    spec: StackSpec,
    weights: Mapping[str, Tensor],
    events: SpikeEvents,
    state: Tensor,
    provider: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run M models of one configuration over spike events, differentiably.

    On a GPU they share every launch. On a CPU they run one after the other, because sharing would
    not be faster. Each gives the same as :func:`run_stack`.

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
    # The weights are stacked, so it is enough to check those of the first.
    _check(spec, {name: value[0] for name, value in weights.items()}, events)
    return _provider(provider, spec, state).run_models(spec, weights, events, state)
