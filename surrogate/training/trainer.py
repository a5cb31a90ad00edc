"""One training run: its state, what it reads, what a step changes, and its checkpoints."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from surrogate.datasets import Dataset
from surrogate.errors import SurrogateError
from surrogate.kernels import SpikeEvents
from surrogate.model.model_file import Model, check_fit
from surrogate.model.stack import RecurrentStack
from surrogate.training.epoch_scores import Epoch, epoch_scores
from surrogate.training.initial_weights import initialise
from surrogate.training.recipe import Recipe
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import Arrays, Progress, RunFolder
from surrogate.training.selection import Selection
from surrogate.training.teacher import Teacher
from surrogate.training.windows import (
    Batch,
    jitter_events,
    plan_run,
    plan_validation_windows,
    read_batch,
    spiking_trials,
)

__all__ = ["StepInput", "Trainer", "TrainingProgress", "loss_terms"]

#: Share of an epoch's time for running the evaluation windows. With the scoring, which counts in
#: small networks, an evaluation stays within 5 %.
VALIDATION_SHARE = 0.03

#: AdamW's moments, by torch's names.
_MOMENTS = ("exp_avg", "exp_avg_sq")

#: Attributes of a trainer that a checkpoint holds.
_OWN = ("step", "history", "failure", "seconds", "own_seconds", "input_rate_hz", "sums")


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands after a step.

    Attributes
    ----------
    step, steps : int
        Optimiser steps done, and in all.
    epoch : int
        Epochs finished.
    loss : float
        Of the last step.
    metrics : dict or None
        Of the epoch, if the step was its last: a line of ``metrics.jsonl``.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    metrics: Epoch | None


@dataclass(frozen=True)
class StepInput:
    """What an optimiser step reads from the data.

    Attributes
    ----------
    batch : Batch
        Its events as the network will see them.
    rates_hz : dict of str to (float, float)
        Lowest and highest mean input rate per synapse among its windows, by group of channels.
    """

    batch: Batch
    rates_hz: dict[str, tuple[float, float]]


def loss_terms(
    recipe: Recipe, batch: Batch, logits: Tensor, voltage: Tensor, burn_in: int
) -> tuple[Tensor, Tensor]:
    """Spike loss and voltage loss of a batch; the run minimises their sum.

    Parameters
    ----------
    recipe : Recipe
    batch : Batch
    logits, voltage : Tensor [B, T]
        The network's outputs, the voltage in mV.
    burn_in : int
        Bins at the start that do not count.

    Returns
    -------
    (Tensor, Tensor)
        Binary cross-entropy with logits (``class_weight`` on spike bins) and mean squared error of
        the clipped voltage in units of ``voltage_unit_mv``, both averaged over the bins after the
        burn-in.
    """
    scored = slice(burn_in, None)
    class_weight = torch.tensor(recipe.class_weight, device=logits.device)
    spike_loss = F.binary_cross_entropy_with_logits(
        logits[:, scored], batch.spikes[:, scored], pos_weight=class_weight
    )
    target = batch.voltage[:, scored].clamp(max=recipe.voltage_clip_mv)
    error = (voltage[:, scored] - target) / recipe.voltage_unit_mv
    return spike_loss, recipe.voltage_weight * error.square().mean()


def _decaying(stack: RecurrentStack) -> list[dict[str, Any]]:
    """The parameters for AdamW, those apart that weight decay leaves alone.

    Decay pulls weights to zero, which means nothing to time constants.
    """
    named = list(stack.named_parameters())
    weights = [value for name, value in named if not name.endswith("log_tau")]
    timed = [value for name, value in named if name.endswith("log_tau")]
    groups: list[dict[str, Any]] = [{"params": weights}]
    return groups + ([{"params": timed, "weight_decay": 0.0}] if timed else [])


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
    teacher : Model, optional
        Where the configuration names one.

    Raises
    ------
    UsageError
        If the data have no such splits or too few windows, or the teacher does not fit them.
    DataError
        If the neuron spikes in no trial of a split.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        folder: RunFolder,
        device: str = "cpu",
        teacher: Model | None = None,
    ) -> None:
        recipe = config.recipe
        self.config, self.dataset, self.folder, self.device = config, dataset, folder, device
        self.train_trials = spiking_trials(dataset, "train")
        self.valid_trials = spiking_trials(dataset, "valid")
        self.plan = plan_run(dataset, recipe, config.seed, config.reuse_windows)
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher(teacher, recipe, dataset, config.seed, device)
        self.burn_in = dataset.bins(recipe.burn_in_ms)
        self.validation, self.validation_burn_in = self._read_validation()
        self.stack = RecurrentStack.from_spec(config.spec)
        initialise(self.stack, recipe, dataset, self.train_trials, config.seed)
        self.stack.to(device)
        # The weights that are evaluated and kept: their running average.
        self.averaged = RecurrentStack.from_spec(config.spec).to(device)
        self.averaged.load_state_dict(self.stack.state_dict())
        self._average = self.averaged.state_dict()
        self.optimizer = torch.optim.AdamW(
            _decaying(self.stack),
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )
        for one in self.stack.parameters():  # as its first step would begin, to be restored into
            moments = {moment: torch.zeros_like(one) for moment in _MOMENTS}
            self.optimizer.state[one] = {"step": torch.tensor(0.0), **moments}
        self.selection = Selection(recipe.select_by, recipe.patience)
        self.step = 0
        self.history: list[Epoch] = []
        self.failure: str | None = None
        self.seconds = self.own_seconds = 0.0
        self.input_rate_hz: dict[str, list[float]] = {}
        self.sums = [0.0, 0.0]

    def _read_validation(self) -> tuple[Batch, int]:
        """Windows that cover the validation trials, few and short enough to evaluate each epoch.

        Layers advance step by step, so the time of a pass depends on its length, not on the batch:
        the budget is a number of steps. A forward pass takes at most half of the time of a training
        step.
        """
        recipe = self.config.recipe
        affordable = int(2 * VALIDATION_SHARE * recipe.steps_per_epoch * self.plan.window)
        length = max(affordable, 2)
        plan = plan_validation_windows(
            self.valid_trials, self.dataset.n_steps, length, recipe.batch_size
        )
        batch = read_batch(self.dataset, plan, 0, len(plan.trial), self.config.labels)
        return batch, min(self.burn_in, plan.window // 2)

    def resume(self) -> str | None:
        """Go back to the last checkpoint, if there is one; returns a note about a damaged one."""
        return self.folder.load_checkpoint(self._restore, 5 * 4 * self.stack.parameter_count)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes, by its name in a checkpoint."""
        states = {key: self.optimizer.state[one] for key, one in self.stack.named_parameters()}
        parts = {"weights": self.stack.state_dict(), "average": self._average} | {
            moment: {key: state[moment] for key, state in states.items()} for moment in _MOMENTS
        }
        return {f"{part}.{key}": one for part, of in parts.items() for key, one in of.items()}

    def _restore(self, arrays: Arrays, progress: Progress) -> None:
        """Go to a checkpoint; ValueError, and nothing has changed, if it is not this run's."""
        recipe = self.config.recipe
        epochs, step = len(progress["history"]), progress["step"]
        if step > recipe.steps or epochs != step // recipe.steps_per_epoch:
            raise ValueError(f"step {step:,} after {epochs:,} epochs, which this run never has")
        tensors = self._tensors()
        kept = self._average if progress["kept"] else {}
        check_fit(arrays, tensors | {f"kept.{key}": value for key, value in kept.items()})
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
        for of in self.optimizer.state.values():
            of["step"].fill_(step)
        best = {key: torch.from_numpy(arrays[f"kept.{key}"]) for key in kept}
        self.selection.load_state(progress, best or None)
        for name in _OWN:
            setattr(self, name, dict(progress)[name])
        self.folder.write_metrics(self.history)

    def save(self) -> None:
        """Write a checkpoint, and the metrics of the epochs so far."""
        best = {f"kept.{key}": one for key, one in (self.selection.weights or {}).items()}
        own = {name: getattr(self, name) for name in _OWN}
        self.folder.save_checkpoint(self._tensors() | best, own | self.selection.state())
        self.folder.write_metrics(self.history)

    @property
    def done(self) -> bool:
        """Whether no step is left to take."""
        ended = self.step >= self.config.recipe.steps or self.selection.exhausted
        return ended or self.failure is not None

    @property
    def shape(self) -> tuple[object, ...]:
        """What runs that train together must have in common."""
        recipe = self.config.recipe
        sizes = (recipe.batch_size, self.plan.window, recipe.steps_per_epoch)
        return (self.config.spec, self.device, self.config.data_digest, *sizes)

    def input_key(self, step: int) -> tuple[object, ...]:
        """A key for the batch of ``step``: equal keys mean equal batches."""
        recipe = self.config.recipe
        drawn = (recipe.window_rule, recipe.window_ms, recipe.epochs * recipe.windows_per_epoch)
        varied = (recipe.event_drop, recipe.segment_jitter)
        shares = (recipe.real_share, recipe.finetune_epochs, recipe.batch_size)
        taught = (self.config.teacher_digest, recipe.teacher_trials, recipe.protocol_scale)
        return (step, self.config.seed, self.config.labels, *shares, *drawn, *varied, *taught)

    def read(self, step: int) -> StepInput:
        """The batch of ``step``, and its input rates."""
        recipe, parts = self.config.recipe, []
        first, real = recipe.real_windows(step)
        if real:
            parts.append(read_batch(self.dataset, self.plan, first, real, self.config.labels))
        if self.teacher and real < recipe.batch_size:
            parts.append(self.teacher.read(step, recipe.batch_size - real))
        batch = Batch.concatenate(parts)
        rates = self._input_rates(batch.events)
        if recipe.event_drop or recipe.segment_jitter:
            # A generator for each step, so that a resumed run draws the same numbers.
            rng = np.random.default_rng([self.config.seed, 1, step])
            seen = jitter_events(
                batch.events,
                rng,
                recipe.event_drop,
                recipe.segment_jitter,
                self.dataset.channels,
            )
            batch = Batch(seen, batch.spikes, batch.voltage)
        return StepInput(batch, rates)

    def _input_rates(self, events: SpikeEvents) -> dict[str, tuple[float, float]]:
        channels = self.dataset.channels
        channel, ends = events.channel.numpy(), events.row_ptr[:: events.steps].numpy()
        counts = np.array([channels.count(channel[i:j]) for i, j in itertools.pairwise(ends)])
        found = {}
        for group, of_group in zip(channels.groups, counts.T, strict=True):
            rates = of_group / (group.size * events.steps * self.dataset.dt_ms / 1000)
            found[group.name] = float(rates.min()), float(rates.max())
        return found

    def prepare_step(self, step_input: StepInput) -> None:
        """Note the input rates of the step's batch, set its learning rate, drop old gradients."""
        for name, (lowest, highest) in step_input.rates_hz.items():
            low, high = self.input_rate_hz.get(name, (math.inf, 0.0))
            self.input_rate_hz[name] = [min(low, lowest), max(high, highest)]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.recipe.learning_rate_at(self.step)
        self.optimizer.zero_grad()

    def losses(self, batch: Batch, logits: Tensor, voltage: Tensor) -> tuple[Tensor, Tensor]:
        """:func:`loss_terms` with this run's recipe."""
        return loss_terms(self.config.recipe, batch, logits, voltage, self.burn_in)

    def learn(self, spike_loss: Tensor, voltage_loss: Tensor) -> float:
        """Change the weights by their gradients; returns the step's loss."""
        parts = spike_loss.item(), voltage_loss.item()
        norm = torch.nn.utils.clip_grad_norm_(
            self.stack.parameters(), self.config.recipe.gradient_clip
        )
        value = (spike_loss + voltage_loss).item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            self.failure = f"loss or gradient not finite at step {self.step + 1}"
            return value
        self.optimizer.step()
        self.step += 1
        for index, part in enumerate(parts):
            self.sums[index] += part
        self._average_weights()
        return value

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was an epoch's last, and the epoch has not been evaluated."""
        ended = self.step // self.config.recipe.steps_per_epoch
        return self.failure is None and ended > len(self.history)

    def finish_step(
        self, seconds: float, own: float, loss: float, epoch_ended: bool
    ) -> TrainingProgress:
        """Count a step's time and this run's share of it; save if it ended an epoch or the run."""
        self.seconds += seconds
        self.own_seconds += own
        if epoch_ended or self.failure is not None:
            self.save()
        metrics = self.history[-1] if epoch_ended else None
        steps = self.config.recipe.steps
        return TrainingProgress(self.step, steps, len(self.history), loss, metrics)

    def _average_weights(self) -> None:
        # A short average at first, so that the random initial weights are soon left out.
        decay = min(self.config.recipe.weight_average, self.step / (self.step + 10))
        for name, value in self.stack.state_dict().items():
            self._average[name].lerp_(value, 1 - decay)

    def end_epoch(self, logits: NDArray[np.float32], voltage: NDArray[np.float32]) -> None:
        """Score :attr:`averaged` by its outputs on :attr:`validation`, note the epoch, and keep the
        weights if they are the best so far."""
        recipe = self.config.recipe
        scores = epoch_scores(logits, voltage, self.validation, self.validation_burn_in)
        spike_loss, voltage_loss = (total / recipe.steps_per_epoch for total in self.sums)
        self.sums = [0.0, 0.0]
        entry: dict[str, Any] = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "learning_rate": recipe.learning_rate_at(self.step - 1),
            "loss": spike_loss + voltage_loss,
            "spike_loss": spike_loss,
            "voltage_loss": voltage_loss,
            **scores,
            "kept": True,
        }
        if scores["voltage_rmse_mv"] is None:
            self.failure = f"outputs not finite after epoch {entry['epoch']}"
            entry["kept"] = False
        else:
            entry["kept"] = self.selection.offer(cast("Epoch", entry), self._average)
        self.history.append(cast("Epoch", entry))

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
        stack = RecurrentStack.from_spec(self.config.spec)
        stack.load_state_dict(self.selection.weights)
        return stack.eval()
