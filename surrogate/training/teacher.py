"""Windows of freshly drawn input, labelled by a stronger surrogate."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from surrogate.datasets import Dataset
from surrogate.kernels import SpikeEvents
from surrogate.model.model_file import Model
from surrogate.model.prediction import predict_events
from surrogate.simulate.protocols import L5PCProtocol
from surrogate.training.recipe import Recipe
from surrogate.training.windows import Batch

__all__ = ["Teacher"]

#: Trials that are drawn and labelled together, always the same ones: rounding may depend on the
#: size of a batch.
BLOCK = 64
#: Blocks that windows are drawn from at a time; with 6 s trials a block takes 14 MB.
POOL = 4


@dataclass(frozen=True)
class _Block:
    events: SpikeEvents
    probability: NDArray[np.float32]
    voltage: NDArray[np.float32]


class Teacher:
    """Draws trials and labels them block by block, in a thread of its own, ahead of the training.

    Windows of a step come from the last few blocks. Which blocks these are, and which windows,
    follows from seed and step alone, so a resumed run labels the blocks that it needs again.

    Parameters
    ----------
    model : Model
        Labels the trials.
    recipe : Recipe
        With ``teacher_trials`` trials, evenly over the steps before the fine-tuning.
    dataset : Dataset
        Of the neuron: its channels, segments and length of trials.
    seed : int
    device : str
        Where the model runs.

    Raises
    ------
    UsageError
        If the model takes other channels or bins than the data have, or the protocol cannot drive
        this neuron.
    """

    def __init__(
        self, model: Model, recipe: Recipe, dataset: Dataset, seed: int, device: str
    ) -> None:
        model.card.check_fits(dataset, "the teacher", "give a teacher of the same neuron")
        self.protocol = L5PCProtocol(
            dataset.channels,
            dataset.segments,
            dataset.n_steps,
            dataset.dt_ms,
            recipe.protocol_scale,
        )
        self.digest = model.digest
        self._stack = model.stack.to(device)
        self._recipe, self._seed = recipe, seed
        self._window = dataset.bins(recipe.window_ms)
        self._blocks: dict[int, Future[_Block]] = {}
        # Its thread ends with the last reference to it, or after the block under way.
        self._thread = ThreadPoolExecutor(1)

    def read(self, step: int, count: int) -> Batch:
        """``count`` windows for ``step``; their "spikes" are probabilities."""
        blocks = self._ready(step)
        rng = np.random.default_rng([self._seed, 3, step])
        picks = rng.integers(0, sum(block.events.batch for block in blocks), count)
        starts = rng.integers(0, self.protocol.n_steps - self._window + 1, count)
        events, probability, voltage = [], [], []
        for pick, start in zip(picks.tolist(), starts.tolist(), strict=True):
            block, trial = blocks[pick // BLOCK], pick % BLOCK
            events.append(block.events.windows([trial], [start], self._window))
            bins = slice(start, start + self._window)
            probability.append(block.probability[trial, bins])
            voltage.append(block.voltage[trial, bins])
        return Batch(
            SpikeEvents.concatenate(events),
            torch.from_numpy(np.stack(probability)),
            torch.from_numpy(np.stack(voltage)),
        )

    def _ready(self, step: int) -> list[_Block]:
        """The blocks of ``step``; starts to label the next one, and forgets those before."""
        last = -(-self._recipe.teacher_trials // BLOCK) - 1
        newest = step * (last + 1) // self._recipe.real_from_step
        wanted = range(max(0, newest - POOL + 1), newest + 1)
        for index in (*wanted, min(newest + 1, last)):
            if index not in self._blocks:
                self._blocks[index] = self._thread.submit(self._label, index)
        for index in self._blocks.keys() - set(wanted) - {newest + 1}:
            del self._blocks[index]
        return [self._blocks[index].result() for index in wanted]

    def _label(self, index: int) -> _Block:
        first = index * BLOCK
        trials = range(first, min(first + BLOCK, self._recipe.teacher_trials))
        events = self.protocol.draw(self._seed, trials)
        logits, voltage = predict_events(self._stack, events)
        return _Block(events, torch.sigmoid(torch.from_numpy(logits)).numpy(), voltage)
