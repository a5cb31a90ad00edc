"""What a score is: one figure by which a surrogate is compared with its neuron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.bootstrap import Resamples, interval
from surrogate.evaluation.comparison import Comparison

__all__ = ["Score", "pooled"]

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Score:
    """One figure by which a surrogate is compared with its neuron.

    Attributes
    ----------
    name : str
        Its key in the result of :func:`surrogate.evaluate`, beside ``<name>_interval``.
    label : str
        What tables call it; with a field such as ``{:g}`` for the parameter, if it has one.
    function : callable
        Gives the score of a :class:`~surrogate.evaluation.comparison.Comparison`, or None where it
        does not exist. With ``at`` it takes the parameter as a second argument.
    resampled : callable, optional
        Gives the score of all resamples at once, float64 [R] with NaN where it does not exist, from
        a :class:`~surrogate.evaluation.bootstrap.Resamples` (and the parameter). Without it
        ``function`` is computed on each resample, which is slower.
    unit : str
        Of the figure, for tables.
    digits : int
        Decimals that tables show.
    at : tuple of float or str
        Values of a parameter. The result then holds an object with one figure for each, or null if
        no figure exists.
    """

    name: str
    label: str
    function: Callable[..., float | None]
    resampled: Callable[..., NDArray[np.float64]] | None = None
    unit: str = ""
    digits: int = 4
    at: tuple[float | str, ...] = ()

    def measure(self, comparison: Comparison) -> float | dict[str, float | None] | None:
        """The score, by its parameter if it has one."""
        return self._for_each(partial(self.function, comparison))

    def intervals(self, resamples: Resamples) -> list[float] | dict[str, Any] | None:
        """The central 95 % over resamples, by the parameter if the score has one."""
        if not len(resamples.weights):
            return None
        return self._for_each(lambda *at: interval(self.resample(resamples, *at)))

    def resample(self, resamples: Resamples, *at: float | str) -> NDArray[np.float64]:
        """The score of each resample [R], NaN where it does not exist."""
        if self.resampled is not None:
            return self.resampled(resamples, *at)
        return np.array([self.function(one, *at) for one in resamples.each()], np.float64)

    def _for_each(
        self, figure: Callable[..., Figure | None]
    ) -> Figure | dict[str, Figure | None] | None:
        if not self.at:
            return figure()
        figures = {str(value): figure(value) for value in self.at}
        return None if all(one is None for one in figures.values()) else figures


def pooled(
    name: str,
    label: str,
    parts: Callable[..., tuple[Any, ...] | None],
    figure: Callable[..., NDArray[np.float64]],
    **options: Any,
) -> Score:
    """A score of sums over all trials, such as a ratio of two counts.

    Parameters
    ----------
    name, label, options
        As in :class:`Score`.
    parts : callable
        Gives of a comparison (and the parameter) the addends of each sum, arrays per trial [N] or a
        number for all trials, or None where the score does not exist.
    figure : callable
        Gives the score of the sums, which come as arrays of equal shape; not finite where there is
        none, as by a division by zero.
    """

    def function(comparison: Comparison, *at: float | str) -> float | None:
        addends = parts(comparison, *at)
        value = (
            np.nan
            if addends is None
            else _figure(np.stack(np.broadcast_arrays(*addends)).sum(axis=1))
        )
        return float(value) if np.isfinite(value) else None

    def resampled(resamples: Resamples, *at: float | str) -> NDArray[np.float64]:
        addends = parts(resamples.comparison, *at)
        if addends is None:
            return np.full(len(resamples.weights), np.nan)
        return _figure(np.stack(np.broadcast_arrays(*addends)) @ resamples.weights.T)

    def _figure(sums: NDArray[np.number]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = figure(*sums)
        return np.where(np.isfinite(values), values, np.nan)

    return Score(name, label, function, resampled, **options)
