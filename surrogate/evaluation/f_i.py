"""Output rate against excitation at several inhibitions, of a neuron and its surrogate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.anatomy import bins_within
from surrogate.evaluation.bootstrap import Resamples, interval

if TYPE_CHECKING:
    from surrogate.datasets import Dataset
    from surrogate.evaluation.protocols import Outputs

__all__ = ["f_i_curves"]

#: Windows whose input and output are counted, ms: as long as an L5PC trial keeps a rate or longer.
WINDOW_MS = 200
#: Curves, and points of each: equally many windows in each.
INHIBITIONS, EXCITATIONS = 3, 5

#: Trials whose events are read at a time.
_BATCH = 64


def f_i_curves(
    dataset: Dataset, outputs: Outputs, resamples: Resamples
) -> list[dict[str, Any]] | None:
    """Rates in windows of the trials, by the rates of their input.

    Returns
    -------
    list of dict, or None
        From weak to strong inhibition: ``inhibition_hz``, the mean rate per inhibitory synapse, and
        ``points``: ``excitation_hz``, ``seconds``, ``neuron_hz`` and ``surrogate_hz``, each rate
        with its 95 % interval over trials as ``<name>_interval``. None without emitted spikes, or
        without channels of which it is known whether they excite or inhibit.
    """
    signs = np.repeat(*np.array([(g.sign, g.size) for g in dataset.channels.groups]).T)
    window = bins_within(WINDOW_MS, outputs.dt_ms)
    windows = outputs.spikes.shape[1] // window
    if outputs.emitted is None or not (signs > 0).any() or not (signs < 0).any() or not windows:
        return None
    steps, seconds = windows * window, window * outputs.dt_ms / 1000
    counts = _count_input(dataset, outputs, signs, window, steps)
    excitation = counts[0] / ((signs > 0).sum() * seconds)
    inhibition = counts[1] / ((signs < 0).sum() * seconds)
    spikes = {
        name: train[:, :steps].reshape(len(train), windows, window).sum(axis=2, dtype=np.int64)
        for name, train in (("neuron_hz", outputs.spikes), ("surrogate_hz", outputs.emitted))
    }
    curves = []
    for among in _equal_parts(inhibition, np.ones(inhibition.shape, bool), INHIBITIONS):
        points = []
        for part in _equal_parts(excitation, among, EXCITATIONS):
            point: dict[str, Any] = {
                "excitation_hz": float(excitation[part].mean()),
                "seconds": float(part.sum() * seconds),
            }
            time = resamples.weights @ part.sum(axis=1) * seconds
            for name, number in spikes.items():
                inside = (number * part).sum(axis=1)
                point[name] = float(inside.sum() / point["seconds"])
                with np.errstate(divide="ignore", invalid="ignore"):
                    point[f"{name}_interval"] = interval(resamples.weights @ inside / time)
            points.append(point)
        curves.append({"inhibition_hz": float(inhibition[among].mean()), "points": points})
    return curves


def _count_input(
    dataset: Dataset, outputs: Outputs, signs: NDArray[np.int64], window: int, steps: int
) -> NDArray[np.float64]:
    """Excitatory and inhibitory input spikes in each window [2, N, W]."""
    counts = np.empty((2, len(outputs.trials), steps // window))
    for first in range(0, len(outputs.trials), _BATCH):
        rows = slice(first, first + _BATCH)
        trials = outputs.trials[rows]
        events = dataset.events(trials, np.full(len(trials), outputs.first_bin), steps)
        row_ptr, channel = events.row_ptr.numpy(), events.channel.numpy()
        at = np.repeat(np.arange(len(trials) * steps) // window, np.diff(row_ptr))
        for index, sign in enumerate((1, -1)):
            found = np.bincount(at[signs[channel] == sign], minlength=counts[0, rows].size)
            counts[index, rows] = found.reshape(len(trials), -1)
    return counts


def _equal_parts(
    values: NDArray[np.float64], among: NDArray[np.bool_], parts: int
) -> list[NDArray[np.bool_]]:
    """Masks of equally many of the values ``among`` all, in rising order; empty ones left out."""
    rank = np.empty(int(among.sum()), np.int64)
    rank[np.argsort(values[among], kind="stable")] = np.arange(len(rank))
    part = np.full(values.shape, -1)
    part[among] = rank * parts // max(len(rank), 1)
    return [part == index for index in range(parts) if (part == index).any()]
