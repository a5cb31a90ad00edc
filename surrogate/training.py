"""The training loop: deterministic, interruptible, and resumed bit for bit."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate.datasets import Dataset
from surrogate.errors import SurrogateError
from surrogate.evaluation import judge
from surrogate.initial_weights import initialise
from surrogate.kernels import SpikeEvents
from surrogate.recipe import Recipe
from surrogate.run_folder import RunConfig, RunFolder
from surrogate.selection import Selection
from surrogate.stack import RecurrentStack
from surrogate.windows import (
    Batch,
    jitter_events,
    plan_judged_windows,
    plan_windows,
    read_batch,
)

__all__ = ["Interrupted", "Progress", "Trainer", "loss_terms", "stop_on_signals"]

#: Share of an epoch's time that running the judged windows may take. With the scoring, which small
#: networks feel, judging stays within 5 %.
JUDGING_SHARE = 0.03


class Interrupted(SurrogateError):
    """The run was stopped by a signal, after saving where it stood."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes
    ----------
    step, steps : int
        Optimiser steps done, and in all.
    epoch : int
        Epochs finished.
    loss : float
        Of the last step.
    entry : dict or None
        The metrics of the epoch that has just ended, if one has.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    entry: dict[str, Any] | None


def loss_terms(
    recipe: Recipe, batch: Batch, logits: Tensor, voltage: Tensor
) -> tuple[Tensor, Tensor]:
    """Spike loss and voltage loss of a batch; the run minimises their sum.

    Parameters
    ----------
    recipe : Recipe
    batch : Batch
    logits, voltage : Tensor [B, T]
        The network's outputs, the voltage in mV.

    Returns
    -------
    (Tensor, Tensor)
        Binary cross-entropy with logits (``pos_weight`` on spike bins) and mean squared error of
        the clipped voltage in units of ``voltage_unit_mv``, both averaged over the bins after the
        burn-in.
    """
    scored = slice(recipe.burn_in_ms, None)
    pos_weight = torch.tensor(recipe.pos_weight, device=logits.device)
    spike_loss = F.binary_cross_entropy_with_logits(
        logits[:, scored], batch.spikes[:, scored], pos_weight=pos_weight
    )
    target = batch.voltage[:, scored].clamp(max=recipe.voltage_clip_mv)
    error = (voltage[:, scored] - target) / recipe.voltage_unit_mv
    return spike_loss, recipe.voltage_weight * error.square().mean()


class Trainer:
    """One training run, from its first step or from its last checkpoint.

    Parameters
    ----------
    config : RunConfig
    dataset : Dataset
        With trials of the splits "train" and "valid".
    folder : RunFolder
    device : str
        "cpu" or a CUDA device.

    Raises
    ------
    UsageError
        If the data have no such splits or too few windows.
    """

    def __init__(
        self, config: RunConfig, dataset: Dataset, folder: RunFolder, device: str = "cpu"
    ) -> None:
        recipe = config.recipe
        self.config, self.dataset, self.folder, self.device = config, dataset, folder, device
        self.train_trials = dataset.trial_indices("train")
        self.valid_trials = dataset.trial_indices("valid")
        self.judged, self.judged_burn_in_ms = self._read_judged()
        self.plan = plan_windows(
            recipe.window_rule,
            self.train_trials,
            dataset.n_steps,
            recipe.window_ms,
            recipe.epochs * recipe.windows_per_epoch,
            config.seed,
            config.reuse_windows,
        )
        self.stack = RecurrentStack(
            config.arch,
            config.hidden_sizes,
            dataset.n_inputs,
            recipe.head,
            voltage_scale=recipe.voltage_scale_mv,
            voltage_offset=recipe.voltage_offset_mv,
        )
        initialise(self.stack, recipe, dataset, self.train_trials, config.seed)
        self.stack.to(device)
        # What is judged and kept: the running average of the weights.
        self._averaged = RecurrentStack.from_spec(self.stack.spec).to(device)
        self._averaged.load_state_dict(self.stack.state_dict())
        self.average = self._averaged.state_dict()
        self.optimizer = torch.optim.AdamW(
            self.stack.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )
        self.selection = Selection(recipe.select_by, recipe.patience)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.failure: str | None = None
        self.seconds = 0.0
        self.input_rate_hz: dict[str, list[float]] = {}
        self._sums = [0.0, 0.0]

    def _read_judged(self) -> tuple[Batch, int]:
        """Windows that cover the validation trials, few and short enough to judge each epoch by.

        Layers advance step by step, so a pass costs what its length costs, whatever the batch: the
        budget is one of steps. A forward pass takes at most half of a training step's time.
        """
        recipe = self.config.recipe
        affordable = int(2 * JUDGING_SHARE * recipe.steps_per_epoch * recipe.window_ms)
        length = max(affordable, 2)
        plan = plan_judged_windows(
            self.valid_trials, self.dataset.n_steps, length, recipe.batch_size
        )
        batch = read_batch(self.dataset, plan, 0, len(plan.trial), self.config.labels)
        return batch, min(recipe.burn_in_ms, plan.window_ms // 2)

    def resume(self) -> str | None:
        """Go back to the last checkpoint, if there is one; returns a note about a damaged one."""
        state, note = self.folder.load_checkpoint()
        if state is not None:
            self.stack.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._averaged.load_state_dict(state["average"])
            self.selection.load_state(state["selection"])
            self.step, self.history = state["step"], state["history"]
            self.failure, self.seconds = state["failure"], state["seconds"]
            self.input_rate_hz, self._sums = state["input_rate_hz"], state["sums"]
            self.folder.write_metrics(self.history)
        return note

    def _save(self) -> None:
        self.folder.save_checkpoint(
            {
                "weights": self.stack.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average,
                "selection": self.selection.state(),
                "step": self.step,
                "history": self.history,
                "failure": self.failure,
                "seconds": self.seconds,
                "input_rate_hz": self.input_rate_hz,
                "sums": self._sums,
            }
        )
        self.folder.write_metrics(self.history)

    @property
    def done(self) -> bool:
        """Whether no step is left to take."""
        ended = self.step >= self.config.recipe.steps or self.selection.exhausted
        return ended or self.failure is not None

    def run(self, report: Callable[[Progress], None], stop: threading.Event | None = None) -> None:
        """Train to the end, reporting each step.

        Parameters
        ----------
        report : callable
        stop : threading.Event, optional
            Once it is set, the run ends after the step under way.

        Raises
        ------
        Interrupted
            On SIGINT, SIGTERM or ``stop``, after saving a checkpoint.
        """
        recipe = self.config.recipe
        stop = stop or threading.Event()
        with stop_on_signals(stop), ThreadPoolExecutor(1) as reader:
            upcoming = None if self.done else reader.submit(self._read, self.step)
            while upcoming is not None and not self.done:
                began = time.monotonic()
                batch = upcoming.result()
                if self.step + 1 < recipe.steps:
                    upcoming = reader.submit(self._read, self.step + 1)
                loss = self._take_step(batch)
                entry = None
                if self.failure is None and self.step % recipe.steps_per_epoch == 0:
                    entry = self._end_epoch()
                self.seconds += time.monotonic() - began
                if entry is not None or self.failure is not None:
                    self._save()
                report(Progress(self.step, recipe.steps, len(self.history), loss, entry))
                if stop.is_set() and not self.done:
                    self._save()
                    raise Interrupted(
                        f"stopped after step {self.step} of {recipe.steps}, everything is saved; "
                        "continue with: surrogate train --resume "
                        f"{shlex.quote(str(self.folder.path))}"
                    )

    def _read(self, step: int) -> tuple[Batch, SpikeEvents]:
        """The batch of ``step``, and its events as the network will see them."""
        recipe = self.config.recipe
        first = step * recipe.batch_size
        batch = read_batch(self.dataset, self.plan, first, recipe.batch_size, self.config.labels)
        if not (recipe.event_drop or recipe.segment_jitter):
            return batch, batch.events
        # A generator of its own for each step, so that a resumed run draws the same.
        rng = np.random.default_rng([self.config.seed, 1, step])
        excitatory = self.dataset.n_excitatory
        groups = (excitatory, self.dataset.n_inputs - excitatory)
        return batch, jitter_events(
            batch.events, rng, recipe.event_drop, recipe.segment_jitter, groups
        )

    def _take_step(self, read: tuple[Batch, SpikeEvents]) -> float:
        """One optimiser step; returns its loss."""
        recipe = self.config.recipe
        batch, seen = read
        self._note_input_rates(batch.events)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step)
        logits, voltage, _ = self.stack(seen.to(self.device))
        targets = Batch(batch.events, batch.spikes.to(self.device), batch.voltage.to(self.device))
        spike_loss, voltage_loss = loss_terms(recipe, targets, logits, voltage)
        loss = spike_loss + voltage_loss
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.stack.parameters(), recipe.gradient_clip)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            self.failure = f"loss or gradient not finite at step {self.step + 1}"
            return value
        self.optimizer.step()
        self.step += 1
        self._sums[0] += spike_loss.item()
        self._sums[1] += voltage_loss.item()
        self._average_weights()
        return value

    def _average_weights(self) -> None:
        # The average starts short, or it would remember the random initial weights.
        decay = min(self.config.recipe.weight_average, self.step / (self.step + 10))
        for name, value in self.stack.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def _note_input_rates(self, events: SpikeEvents) -> None:
        """Widen the range of mean input rates seen, in Hz per synapse."""
        excitatory = self.dataset.n_excitatory
        window = events.rows() // events.steps
        is_excitatory = events.channel < excitatory
        for name, mask, synapses in (
            ("excitatory", is_excitatory, excitatory),
            ("inhibitory", ~is_excitatory, self.dataset.n_inputs - excitatory),
        ):
            if synapses:
                counts = torch.bincount(window[mask], minlength=events.batch)
                rates = counts / (synapses * events.steps * self.dataset.dt_ms / 1000)
                low, high = self.input_rate_hz.get(name, (math.inf, 0.0))
                self.input_rate_hz[name] = [
                    min(low, float(rates.min())),
                    max(high, float(rates.max())),
                ]

    def _end_epoch(self) -> dict[str, Any]:
        """Judge the weights, keep them if they are the best, and note the epoch."""
        recipe = self.config.recipe
        scores = judge(self._averaged, self.judged, self.judged_burn_in_ms)
        spike_loss, voltage_loss = (total / recipe.steps_per_epoch for total in self._sums)
        self._sums = [0.0, 0.0]
        entry = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "learning_rate": recipe.learning_rate_at(self.step - 1),
            "loss": spike_loss + voltage_loss,
            "spike_loss": spike_loss,
            "voltage_loss": voltage_loss,
            **scores,
        }
        if scores["voltage_rmse_mv"] is None:
            self.failure = f"outputs not finite after epoch {entry['epoch']}"
            entry["kept"] = False
        else:
            entry["kept"] = self.selection.offer(entry, self.average)
        self.history.append(entry)
        return entry

    def best_stack(self) -> RecurrentStack:
        """The stack with the weights of the epoch kept.

        Raises
        ------
        SurrogateError
            If the run failed before its first epoch ended.
        """
        if self.selection.weights is None:
            raise SurrogateError(
                f"{self.folder.path}: {self.failure} and no epoch had ended, so there are no "
                "weights to keep; lower --learning-rate"
            )
        stack = RecurrentStack.from_spec(self.stack.spec)
        stack.load_state_dict(self.selection.weights)
        return stack.eval()


@contextlib.contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set ``stop``; a second signal acts as it would without us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
