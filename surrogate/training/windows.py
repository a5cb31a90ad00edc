"""Training windows: which stretches of which trials, in which order, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.channels import Channels
from surrogate.datasets import Dataset
from surrogate.errors import DataError, UsageError
from surrogate.kernels import SpikeEvents
from surrogate.training.recipe import Recipe

__all__ = [
    "Batch",
    "WindowPlan",
    "jitter_events",
    "plan_run",
    "plan_validation_windows",
    "plan_windows",
    "read_batch",
    "spiking_trials",
]


#: Spikes and voltage of a batch take 8 bytes a bin.
MAX_BATCH_BINS = 2**27


@dataclass(frozen=True)
class WindowPlan:
    """All windows of a run, in order.

    Attributes
    ----------
    trial, start : int64 [windows]
        Window w is bins ``start[w] .. start[w] + window - 1`` of trial ``trial[w]``.
    window : int
        Bins of a window.
    reused : bool
        Whether the data hold fewer windows than the run takes, so that some are repeated.
    """

    trial: NDArray[np.int64]
    start: NDArray[np.int64]
    window: int
    reused: bool


@dataclass(frozen=True)
class Batch:
    """Events, and what the neuron did: spikes float32 [B, T], soma voltage [B, T] in mV.

    Spikes are 0 or 1, or a teacher's probabilities.
    """

    events: SpikeEvents
    spikes: Tensor
    voltage: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Batch]) -> Batch:
        """The windows of ``parts``, one after the other."""
        return cls(
            SpikeEvents.concatenate([part.events for part in parts]),
            torch.cat([part.spikes for part in parts]),
            torch.cat([part.voltage for part in parts]),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same on ``device``."""
        return Batch(self.events.to(device), self.spikes.to(device), self.voltage.to(device))


def plan_run(dataset: Dataset, recipe: Recipe, seed: int, reuse: bool) -> WindowPlan:
    """All windows of real trials for a run that trains as ``recipe`` says.

    Raises
    ------
    UsageError
        If the windows do not fit the trials, the bins or memory, or run out and ``reuse`` is false.
    """
    window, duration_ms = dataset.bins(recipe.window_ms), dataset.header.duration_ms
    if window > dataset.n_steps:
        raise UsageError(
            f"windows of {recipe.window_ms} ms do not fit trials of {duration_ms:g} ms; "
            f"use --set window_ms={int(duration_ms)}"
        )
    if window <= dataset.bins(recipe.burn_in_ms):
        raise UsageError(
            f"windows of {recipe.window_ms} ms with a burn-in of {recipe.burn_in_ms} ms leave no "
            f"bin of {dataset.dt_ms:g} ms; use a longer --set window_ms"
        )
    if recipe.batch_size * window > MAX_BATCH_BINS:
        raise UsageError(
            f"batches of {recipe.batch_size:,} windows of {window:,} bins need "
            f"{8e-9 * recipe.batch_size * window:.1f} GB: expected at most 1 GB; use a smaller "
            "--set batch_size"
        )
    return plan_windows(
        recipe.window_rule,
        dataset.trial_indices("train"),
        dataset.n_steps,
        window,
        recipe.real_windows(recipe.steps)[0],
        seed,
        reuse,
    )


def spiking_trials(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """The trials of a split, in which the neuron spikes at least once.

    Raises
    ------
    UsageError
        If the data have no such split.
    DataError
        If the neuron spikes in none of them: no model could learn when, or be judged by it.
    """
    trials = dataset.trial_indices(split)
    if not dataset.output_spike_counts[trials].any():
        kind = {"train": "training", "valid": "validation"}.get(split, split)
        raise DataError(
            f"{dataset.path}: no {kind} trial has a spike ({len(trials)} trials); give data in "
            "which the neuron spikes"
        )
    return trials


def plan_windows(
    rule: str,
    trials: NDArray[np.int64],
    n_steps: int,
    window: int,
    count: int,
    seed: int,
    reuse: bool,
) -> WindowPlan:
    """Draw ``count`` windows from ``trials``, the same for the same arguments.

    Parameters
    ----------
    rule : "one_per_trial" | "distinct"
        Whether no trial, or no (trial, start), may come twice.
    trials : int64 [n]
        Trials to draw from.
    n_steps : int
        Bins of a trial.
    window, count, seed : int
        Bins of a window, number of windows, seed of the draw.
    reuse : bool
        Repeat the windows, in a new order, when they have run out.

    Raises
    ------
    UsageError
        If the windows run out and ``reuse`` is false.
    """
    starts_per_trial = n_steps - window + 1
    available = len(trials) * (starts_per_trial if rule == "distinct" else 1)
    if count > available and not reuse:
        unit = "windows that differ" if rule == "distinct" else "trials, one window each"
        raise UsageError(
            f"the run takes {count:,} windows, the data hold {available:,} {unit}: "
            "give more data or --reuse-windows"
        )
    rng = np.random.default_rng([seed, 0])
    trial, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    left = count
    while left:
        take = min(left, available)
        if rule == "distinct":
            picks = rng.choice(available, size=take, replace=False)
            trial.append(trials[picks // starts_per_trial])
            start.append(picks % starts_per_trial)
        else:
            trial.append(rng.permutation(trials)[:take])
            start.append(rng.integers(0, starts_per_trial, size=take))
        left -= take
    return WindowPlan(
        np.concatenate(trial), np.concatenate(start), window, reused=count > available
    )


def plan_validation_windows(
    trials: NDArray[np.int64], n_steps: int, length: int, count: int
) -> WindowPlan:
    """At most ``count`` windows of ``length`` that cover ``trials`` evenly, without overlap."""
    length = min(length, n_steps)
    per_trial = n_steps // length
    available = len(trials) * per_trial
    picks = np.linspace(0, available - 1, min(count, available)).round().astype(np.int64)
    return WindowPlan(trials[picks // per_trial], picks % per_trial * length, length, reused=False)


def read_batch(dataset: Dataset, plan: WindowPlan, first: int, size: int, labels: str) -> Batch:
    """Windows ``first .. first + size - 1`` of the plan."""
    trials, starts = plan.trial[first : first + size], plan.start[first : first + size]
    return Batch(
        dataset.events(trials, starts, plan.window),
        torch.from_numpy(dataset.spikes(trials, starts, plan.window, labels)).float(),
        torch.from_numpy(dataset.voltage(trials, starts, plan.window)),
    )


def jitter_events(
    events: SpikeEvents,
    rng: np.random.Generator,
    drop: float,
    segment_jitter: float,
    channels: Channels,
) -> SpikeEvents:
    """Vary the input slightly, so that the neuron's response would hardly change.

    Parameters
    ----------
    events : SpikeEvents
    rng : numpy Generator
    drop : float
        Probability that a spike is left out.
    segment_jitter : float
        Probability that a spike moves to the next channel of its group, up or down. Spikes that
        meet on one channel in one bin become one. Only where the channels have a place on the
        dendrite: elsewhere neighbours have nothing in common.
    channels : Channels
        Of the neuron; no spike leaves its group.

    Returns
    -------
    SpikeEvents
        May share memory with ``events`` where nothing changed.
    """
    width = channels.size
    channel, row_ptr = events.channel.numpy(), events.row_ptr.numpy()
    if drop:
        kept = rng.random(channel.size, dtype=np.float32) >= drop
        channel, row_ptr = channel[kept], _pointers(kept, row_ptr)
    if segment_jitter:
        draw = rng.random(channel.size, dtype=np.float32)
        up, down = draw < segment_jitter / 2, draw > 1 - segment_jitter / 2
        moved = channel + up.astype(np.int16) - down.astype(np.int16)
        stays = (moved < 0) | (moved >= width)
        for group, of in zip(channels.groups, channels.slices.values(), strict=True):
            if of.start:
                stays |= (moved < of.start) != (channel < of.start)
            if group.segments is None:
                stays |= (channel >= of.start) & (channel < of.stop)
        np.copyto(moved, channel, where=stays)
        # The list is almost sorted already, which makes a merge sort fast.
        rows = np.arange(row_ptr.size - 1, dtype=np.int32 if row_ptr.size * width < 2**31 else int)
        base = np.repeat(rows * width, np.diff(row_ptr))
        key = np.sort(base + moved, kind="stable")
        kept = np.ones(key.size, dtype=bool)
        np.not_equal(key[1:], key[:-1], out=kept[1:])
        channel, row_ptr = (key - base)[kept].astype(np.int16), _pointers(kept, row_ptr)
    return SpikeEvents(
        torch.from_numpy(channel), torch.from_numpy(row_ptr), events.batch, events.steps
    )


def _pointers(kept: NDArray[np.bool_], row_ptr: NDArray[np.int32]) -> NDArray[np.int32]:
    """Row pointers when only the events marked in ``kept`` are left."""
    before = np.zeros(kept.size + 1, dtype=np.int32)
    np.cumsum(kept, out=before[1:])
    return before[row_ptr]
