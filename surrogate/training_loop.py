"""The loop over optimiser steps, for one run or for several that share every launch."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from surrogate.kernels import SpikeEvents
from surrogate.stack import run_stacks

if TYPE_CHECKING:
    from surrogate.training import Progress, Reading, Trainer

__all__ = ["stop_on_signals", "train_together"]


def train_together(
    trainers: Sequence[Trainer],
    report: Callable[[Trainer, Progress], None],
    stopped: Callable[[Trainer], bool],
) -> Iterator[Trainer]:
    """Train runs of one configuration side by side, step by step, until each has ended.

    On a GPU their stacks share every launch, which takes hardly longer than that of one small
    stack. Each run keeps its learning rate, class weight, seed, step and schedule, and becomes what
    it would have become alone.

    Parameters
    ----------
    trainers : sequence of Trainer
        On one device, with one data set, and with recipes of one batch size, window length and
        number of steps per epoch. Some may be further on than others.
    report : callable
        Called after each step of each trainer.
    stopped : callable
        Asked after each step whether a trainer shall stop; it then saves.

    Yields
    ------
    Trainer
        Each as soon as it has ended: done, or, if it is not :attr:`Trainer.done`, stopped. The
        others wait until the next is asked for.

    Raises
    ------
    ValueError
        If the trainers do not fit together.
    """
    if len({trainer.shape for trainer in trainers}) > 1:
        raise ValueError("runs that train together need one stack and one shape of batch")
    ended = [trainer for trainer in trainers if trainer.done]
    active = [trainer for trainer in trainers if not trainer.done]
    with ThreadPoolExecutor(1) as reader:
        upcoming = _submit(reader, {}, active, 0)
        while active or ended:
            yield from ended
            if not active:
                return
            began = time.monotonic()
            readings = [upcoming[trainer.reading_key(trainer.step)] for trainer in active]
            found = [reading.result() for reading in readings]
            upcoming = _submit(reader, upcoming, active, 1)
            losses = _take_step(active, found)
            judged = [trainer for trainer in active if trainer.epoch_ended]
            _end_epochs(judged)
            seconds = time.monotonic() - began
            ended = []
            for trainer, loss in zip(active, losses, strict=True):
                progress = trainer.finish_step(seconds, loss, trainer in judged)
                report(trainer, progress)
                if stopped(trainer) and not trainer.done:
                    trainer.save()
                    ended.append(trainer)
                elif trainer.done:
                    ended.append(trainer)
            active = [trainer for trainer in active if trainer not in ended]


def _submit(
    reader: ThreadPoolExecutor,
    known: dict[tuple[object, ...], Future[Reading]],
    trainers: Sequence[Trainer],
    ahead: int,
) -> dict[tuple[object, ...], Future[Reading]]:
    """Have the batches read that ``trainers`` need ``ahead`` steps from now, equal ones once."""
    wanted: dict[tuple[object, ...], Future[Reading]] = {}
    for trainer in trainers:
        step = trainer.step + ahead
        key = trainer.reading_key(step)
        if step < trainer.config.recipe.steps and key not in wanted:
            wanted[key] = known.get(key) or reader.submit(trainer.read, step)
    return wanted


def _take_step(trainers: Sequence[Trainer], readings: Sequence[Reading]) -> list[float]:
    """One optimiser step of each trainer; returns their losses."""
    # Runs of one seed read the same windows, which then need to be on the device only once.
    placed = {id(reading): reading.batch.to(trainers[0].device) for reading in readings}
    batches = [placed[id(reading)] for reading in readings]
    events = batches[0].events
    if len(placed) > 1:
        events = SpikeEvents.concatenate([batch.events for batch in batches])
    for trainer, reading in zip(trainers, readings, strict=True):
        trainer.prepare_step(reading)
    stacks = [trainer.stack for trainer in trainers]
    logits, voltage = run_stacks(stacks, events, batches[0].events.batch)
    terms = [
        trainer.losses(batch, *outputs)
        for trainer, batch, *outputs in zip(trainers, batches, logits, voltage, strict=True)
    ]
    # One walk back through what they share; the runs have no parameter in common.
    torch.autograd.backward([spikes + membrane for spikes, membrane in terms])
    return [trainer.learn(*both) for trainer, both in zip(trainers, terms, strict=True)]


@torch.no_grad()
def _end_epochs(trainers: Sequence[Trainer]) -> None:
    """Judge the trainers whose epoch has ended, on the windows that all of them are judged by."""
    if not trainers:
        return
    judged = trainers[0].judged.events
    stacks = [trainer.averaged for trainer in trainers]
    logits, voltage = run_stacks(stacks, judged.to(trainers[0].device), judged.batch)
    for trainer, *outputs in zip(trainers, logits, voltage, strict=True):
        trainer.end_epoch(*(output.cpu().numpy() for output in outputs))


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
