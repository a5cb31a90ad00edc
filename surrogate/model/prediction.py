"""Runs a stack over events or trials, chunk by chunk, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import UsageError
from surrogate.kernels import SpikeEvents
from surrogate.model.stack import RecurrentStack

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["BinsCallback", "predict_dataset", "predict_events", "run_without_gradients"]

#: Called with (bins done, bins in all) after each chunk.
BinsCallback = Callable[[int, int], None]


def predict_events(
    stack: RecurrentStack, events: SpikeEvents, state: Tensor | None = None, chunk_bins: int = 500
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run ``stack`` over ``events``, state carried from chunk to chunk, without gradients.

    Parameters
    ----------
    stack : RecurrentStack
    events : SpikeEvents
        B sequences of T bins.
    state : Tensor [B, spec.state_size], optional
        State before the first bin; zeros if not given.
    chunk_bins : int
        Bins per call of the stack; bounds the memory used.

    Returns
    -------
    logits : float32 [B, T]
    voltage : float32 [B, T], mV

    Raises
    ------
    UsageError
        If an event's channel is outside the stack's input size.
    """
    highest = int(events.channel.max()) if events.channel.numel() else 0
    if highest >= stack.spec.input_size:
        raise UsageError(
            f"the input has a spike in channel {highest}, the model only the channels "
            f"0..{stack.spec.input_size - 1}; give data of the neuron it was trained on"
        )
    chunks = (
        events.slice_steps(start, min(start + chunk_bins, events.steps))
        for start in range(0, events.steps, chunk_bins)
    )
    outputs = []
    for chunk in chunks:
        logits, voltage, state = run_without_gradients(stack, chunk, state)
        outputs.append((logits, voltage))
    logits, voltage = (np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True))
    return logits, voltage


def predict_dataset(
    stack: RecurrentStack,
    dataset: Dataset,
    trials: Sequence[int] | NDArray[np.integer],
    batch: int = 64,
    chunk_bins: int = 500,
    progress: BinsCallback | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run ``stack`` over bins ``start..stop - 1`` of ``trials``, each from a zero state.

    Parameters
    ----------
    stack : RecurrentStack
    dataset : Dataset
    trials : sequence of int [N]
    batch, chunk_bins : int
        Trials and bins that are read and run at a time; they bound the memory used.
    progress : callable, optional
        Called with (bins done, bins in all) after each chunk.
    start, stop : int
        By default the whole trial.

    Returns
    -------
    logits : float32 [N, stop - start]
    voltage : float32 [N, stop - start], mV

    Raises
    ------
    UsageError
        If the data have another number of input channels than the stack.
    """
    if dataset.n_inputs != stack.spec.input_size:
        raise UsageError(
            f"{dataset.path}: {dataset.n_inputs} input channels, the model takes "
            f"{stack.spec.input_size}; give data of the neuron it was trained on"
        )
    trials = np.asarray(trials)
    stop = dataset.n_steps if stop is None else stop
    logits, voltage = (np.empty((len(trials), stop - start), np.float32) for _ in range(2))
    done = 0
    for first in range(0, len(trials), batch):
        rows = slice(first, first + batch)
        state = None
        for at in range(start, stop, chunk_bins):
            steps = min(chunk_bins, stop - at)
            bins = slice(at - start, at - start + steps)
            events = dataset.events(trials[rows], np.full(len(trials[rows]), at), steps)
            part = run_without_gradients(stack, events, state)
            logits[rows, bins], voltage[rows, bins], state = part
            done += len(trials[rows]) * steps
            if progress is not None:
                progress(done, logits.size)
    return logits, voltage


def run_without_gradients(
    stack: RecurrentStack, events: SpikeEvents, state: Tensor | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], Tensor]:
    """One call of the stack: logits and voltage (mV) [B, T] as arrays, and the state after."""
    device = next(stack.parameters()).device
    with torch.no_grad():
        logits, voltage, state = stack(events.to(device), state)
    return logits.float().cpu().numpy(), voltage.float().cpu().numpy(), state
