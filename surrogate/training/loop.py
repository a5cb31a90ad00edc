"""The loop over optimiser steps, for one run or for several that share every launch."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from surrogate.errors import Interrupted
from surrogate.kernels import PROVIDERS, SpikeEvents, default_provider
from surrogate.model.stack import run_stacks
from surrogate.training.trainer import StepInput, Trainer, TrainingProgress

__all__ = ["stop_on_signals", "train_to_end", "train_together"]

_Ended = tuple[Trainer, Exception | None]


def train_to_end(
    trainer: Trainer,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> None:
    """Train one run until it is done.

    Parameters
    ----------
    trainer : Trainer
    report : callable
        Called after each step.
    stop : threading.Event, optional
        Once it is set, the run ends after the step under way.

    Raises
    ------
    Interrupted
        On SIGINT, SIGTERM or ``stop``, after saving a checkpoint.
    """
    stop = stop or threading.Event()
    with stop_on_signals(stop):
        for _, error in train_together(
            [trainer], lambda _, progress: report(progress), lambda _: stop.is_set()
        ):
            if error is not None:
                raise error
    if not trainer.done:
        raise Interrupted(
            f"stopped after step {trainer.step} of {trainer.config.recipe.steps}, everything is "
            f"saved; continue with: {trainer.folder.resume_command}"
        )


def train_together(
    trainers: Sequence[Trainer],
    report: Callable[[Trainer, TrainingProgress], None],
    stopped: Callable[[Trainer], bool],
) -> Iterator[tuple[Trainer, Exception | None]]:
    """Train runs of one configuration side by side, step by step, until each has ended.

    On a GPU their stacks share every launch. Each run keeps its learning rate, class weight, seed,
    step and schedule, and ends with the weights that it would have had alone.

    Parameters
    ----------
    trainers : sequence of Trainer
        On one device, with one data set, and with recipes of one batch size, window length and
        number of steps per epoch. Some may be further on than others.
    report : callable
        Called after each step of each trainer.
    stopped : callable
        Called after each step; where it is true the trainer saves and stops.

    Yields
    ------
    (Trainer, Exception or None)
        Each as soon as it has ended: done, or, if it is not :attr:`Trainer.done`, stopped or ended
        by an error of its own. The others continue when the caller takes the next item.

    Raises
    ------
    ValueError
        If the trainers do not fit together.
    Exception
        Errors in the shared part; then none of them has ended.
    """
    if len({trainer.shape for trainer in trainers}) > 1:
        raise ValueError("runs that train together need one stack and one shape of batch")
    ended: list[_Ended] = [(trainer, None) for trainer in trainers if trainer.done]
    active = [trainer for trainer in trainers if not trainer.done]
    del trainers  # so that the caller can free the memory of a run that has ended
    clock = _StepClock()
    with ThreadPoolExecutor(1) as reader:
        upcoming = _submit(reader, {}, active, 0)
        while active or ended:
            with clock.stopped():
                while ended:
                    yield ended.pop(0)
            inputs = _wait_for(active, upcoming, ended)
            upcoming = _submit(reader, upcoming, list(inputs), 1)
            losses = _take_step(inputs)
            validated = _run_validation([trainer for trainer in inputs if trainer.epoch_ended])
            spent = clock.lap(len(losses))
            for trainer, loss in losses.items():
                outputs = validated.get(trainer)
                ended += _finish_step(trainer, spent, loss, outputs, report, stopped)
            gone = [trainer for trainer, _ in ended]
            active = [trainer for trainer in active if trainer not in gone]


class _StepClock:
    """Times the steps that runs take together: from one to the next, so that saving counts."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stopped = 0.0

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The time inside is not shared: the caller evaluates a run that has ended."""
        began = time.monotonic()
        yield
        self._stopped += time.monotonic() - began

    def lap(self, runs: int) -> tuple[float, float]:
        """Seconds since the last lap, and each run's share of those in which the clock ran."""
        began, self._began = self._began, time.monotonic()
        seconds, stopped = self._began - began, self._stopped
        self._stopped = 0.0
        return seconds, (seconds - stopped) / max(1, runs)


def _wait_for(
    trainers: Sequence[Trainer],
    upcoming: Mapping[tuple[object, ...], Future[StepInput]],
    ended: list[_Ended],
) -> dict[Trainer, StepInput]:
    """The batches of the step under way; a trainer whose batch cannot be read has ended."""
    inputs = {}
    for trainer in trainers:
        try:
            inputs[trainer] = upcoming[trainer.input_key(trainer.step)].result()
        except Exception as error:
            ended.append((trainer, error))
    return inputs


def _finish_step(
    trainer: Trainer,
    spent: tuple[float, float],
    loss: float,
    validated: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    report: Callable[[Trainer, TrainingProgress], None],
    stopped: Callable[[Trainer], bool],
) -> list[_Ended]:
    """The part of a step that each trainer does separately; returns the trainer if it has ended."""
    try:
        if validated is not None:
            trainer.end_epoch(*validated)
        report(trainer, trainer.finish_step(*spent, loss, validated is not None))
        if trainer.done:
            return [(trainer, None)]
        if stopped(trainer):
            trainer.save()
            return [(trainer, None)]
    except Exception as error:
        return [(trainer, error)]
    return []


def _submit(
    reader: ThreadPoolExecutor,
    known: dict[tuple[object, ...], Future[StepInput]],
    trainers: Sequence[Trainer],
    ahead: int,
) -> dict[tuple[object, ...], Future[StepInput]]:
    """Start reading the batches ``trainers`` need ``ahead`` steps from now, equal ones once."""
    wanted: dict[tuple[object, ...], Future[StepInput]] = {}
    for trainer in trainers:
        step = trainer.step + ahead
        key = trainer.input_key(step)
        if step < trainer.config.recipe.steps and key not in wanted:
            wanted[key] = known.get(key) or reader.submit(trainer.read, step)
    return wanted


def _take_step(inputs: Mapping[Trainer, StepInput]) -> dict[Trainer, float]:
    """One optimiser step of each trainer; returns their losses."""
    losses = {}
    for trainers in _sharing(list(inputs)):
        # Runs with the same seed read the same windows, which are copied to the device once.
        placed = {
            id(one): one.batch.to(trainers[0].device)
            for one in (inputs[trainer] for trainer in trainers)
        }
        batches = [placed[id(inputs[trainer])] for trainer in trainers]
        events = batches[0].events
        if len(placed) > 1:
            events = SpikeEvents.concatenate([batch.events for batch in batches])
        for trainer in trainers:
            trainer.prepare_step(inputs[trainer])
        stacks = [trainer.stack for trainer in trainers]
        logits, voltage = run_stacks(stacks, events, batches[0].events.batch)
        terms = [
            trainer.losses(batch, *outputs)
            for trainer, batch, *outputs in zip(trainers, batches, logits, voltage, strict=True)
        ]
        # One backward pass for all: the runs have no parameter in common.
        torch.autograd.backward([spikes + membrane for spikes, membrane in terms])
        for trainer, both in zip(trainers, terms, strict=True):
            losses[trainer] = trainer.learn(*both)
    return losses


@torch.no_grad()
def _run_validation(
    trainers: Sequence[Trainer],
) -> dict[Trainer, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Logits and voltage of each trainer, whose epoch has ended, on its evaluation windows."""
    outputs = {}
    for group in _sharing(trainers):
        validated = group[0].validation.events
        stacks = [trainer.averaged for trainer in group]
        logits, voltage = run_stacks(stacks, validated.to(group[0].device), validated.batch)
        for trainer, *both in zip(group, logits, voltage, strict=True):
            outputs[trainer] = both[0].cpu().numpy(), both[1].cpu().numpy()
    return outputs


def _sharing(trainers: Sequence[Trainer]) -> list[Sequence[Trainer]]:
    """Groups of trainers that share a launch: all of them on a GPU; each alone on a CPU.

    On a CPU they use the same working memory one after the other, so that it stays in the cache.
    """
    if not trainers:
        return []
    first = trainers[0]
    stack = first.stack
    name = stack.provider or default_provider(first.device, spec=stack.spec)
    if PROVIDERS[name].shares_launches:
        return [trainers]
    return [[trainer] for trainer in trainers]


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
