"""Surrogates side by side: the same scores on the same trials, and their differences."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surrogate import datasets
from surrogate.errors import UsageError
from surrogate.evaluation.bootstrap import Resamples, draw_weights, interval
from surrogate.evaluation.evaluate import evaluate
from surrogate.evaluation.result import Evaluation
from surrogate.evaluation.score import Score
from surrogate.evaluation.scores import SCORES
from surrogate.model.model_file import Model, load
from surrogate.model.prediction import BinsCallback

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["ModelComparison", "compare"]


class ModelComparison(dict[str, Any]):
    """Scores of several models, as ``surrogate compare --json`` prints them.

    ``print`` shows them as a table.

    Attributes
    ----------
    evaluations : list of Evaluation
        Of each model, without intervals.
    """

    def __init__(self, result: Mapping[str, Any], evaluations: list[Evaluation]) -> None:
        super().__init__(result)
        self.evaluations = evaluations

    def __str__(self) -> str:
        models = [
            f"#{number} {model['arch']} {model['sizes']}, {model['parameters']:,} parameters"
            + (f": {model['path']}" if model["path"] else "")
            for number, model in enumerate(self["models"], start=1)
        ]
        trials = (
            f"{self['data']['name']}, split {self['split']}: {self['n_trials']} trials, "
            f"{self['n_spikes']} spikes; protocol {self['protocol']}, {self['labels']} spike times"
        )
        head = f"{'score':<40}{'#1':>10}"
        for number in range(2, len(models) + 1):
            head += f"{f'#{number}':>12}{f'#{number} - #1':>12}   {'95 % over trials':<20}"
        rows = [head.rstrip()]
        for score in SCORES.values():
            label = f"{score.label} ({score.unit})" if score.unit else score.label
            entry = self["scores"][score.name]
            if not score.at:
                rows.append(_row(label, entry, score.digits))
            for at in score.at:
                rows.append(_row(label.format(at), entry[str(at)], score.digits))
        return "\n".join([*models, trials, "", *rows])


def _row(label: str, entry: Mapping[str, list[Any]], digits: int) -> str:
    def shown(value: float | None, sign: str = "") -> str:
        return "none" if value is None else f"{value:{sign}.{digits}f}"

    row = f"{label:<40}{shown(entry['values'][0]):>10}"
    for value, difference, ends in zip(
        entry["values"][1:],
        entry["differences"][1:],
        entry["difference_intervals"][1:],
        strict=True,
    ):
        around = f"[{shown(ends[0], '+')}, {shown(ends[1], '+')}]" if ends else ""
        row += f"{shown(value):>12}{shown(difference, '+'):>12}   {around:<20}"
    return row.rstrip()


def compare(
    models: Sequence[Model | str | os.PathLike[str]],
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    protocol: str = "stateful",
    labels: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: BinsCallback | None = None,
) -> ModelComparison:
    """Evaluate models on the same trials and compare each with the first.

    The intervals of differences are paired: every resample holds the same trials for all models, so
    that trials which are hard for all of them do not blur the difference.

    Parameters
    ----------
    models : sequence of Model or path
        Two or more.
    data, split, protocol, labels, bootstrap, seed, progress
        As of :func:`surrogate.evaluate`.

    Returns
    -------
    ModelComparison
        A dict. ``models`` describes them; ``scores`` holds for each score (and each value of its
        parameter) four lists with an entry for each model: ``values``, ``intervals``,
        ``differences`` from the first model and ``difference_intervals``, the central 95 % over
        resamples. What does not exist is None. ``print`` shows a table. Its ``evaluations`` hold
        the outputs.

    Raises
    ------
    UsageError
        If there are fewer than two models, or as :func:`surrogate.evaluate`.
    DataError
        If a file is damaged or missing, or outputs are not finite.

    Examples
    --------
    >>> import surrogate
    >>> found = surrogate.compare(["gru.safetensors", "lstm.safetensors"])   # doctest: +SKIP
    >>> found["scores"]["event_f1"]["2"]["difference_intervals"][1]          # doctest: +SKIP
    [-0.0312, 0.0891]
    """
    if isinstance(models, str | os.PathLike | Model) or len(models) < 2:
        raise UsageError("fewer than two models: give those to compare, such as [first, second]")
    models = [model if isinstance(model, Model) else load(model) for model in models]
    with contextlib.ExitStack() as stack:
        if data is None or isinstance(data, str | os.PathLike):
            data = stack.enter_context(datasets.open(data))
        evaluations = [
            evaluate(
                model,
                data,
                split=split,
                protocol=protocol,
                labels=labels,
                bootstrap=0,
                progress=_of_all(progress, number, len(models)),
            )
            for number, model in enumerate(models)
        ]
    first = evaluations[0]
    count = bootstrap if first["n_trials"] > 1 else 0
    weights = draw_weights(first["n_trials"], count, seed)
    resamples = [Resamples(each.outputs, weights) for each in evaluations]
    shared = ("n_trials", "n_trials_dropped", "n_bins", "n_spikes", "protocol", "labels", "split")
    return ModelComparison(
        {
            "models": [_describe(each) for each in evaluations],
            "scores": {
                name: _compare_score(score, evaluations, resamples)
                for name, score in SCORES.items()
            },
            **{key: first[key] for key in shared},
            "bootstrap": {"resamples": count, "seed": seed},
            "data": first["data"],
        },
        evaluations,
    )


def _of_all(progress: BinsCallback | None, number: int, models: int) -> BinsCallback | None:
    """Progress of one of several models as part of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, models * total)


def _describe(evaluation: Evaluation) -> dict[str, Any]:
    model = evaluation.model
    return {
        "path": None if model.path is None else str(model.path),
        "arch": model.stack.spec.arch,
        "sizes": model.stack.spec.sizes_text,
        **{key: evaluation[key] for key in ("parameters", "model_file_bytes", "spike_rule")},
    }


def _compare_score(
    score: Score, evaluations: Sequence[Evaluation], resamples: Sequence[Resamples]
) -> dict[str, Any]:
    """Lists over models, by the parameter if the score has one."""
    if not score.at:
        values = [each[score.name] for each in evaluations]
        return _differences(values, [score.resample(each) for each in resamples])
    return {
        str(at): _differences(
            [(each[score.name] or {}).get(str(at)) for each in evaluations],
            [score.resample(each, at) for each in resamples],
        )
        for at in score.at
    }


def _differences(
    values: list[float | None], resampled: list[NDArray[np.float64]]
) -> dict[str, list[Any]]:
    first = values[0]
    return {
        "values": values,
        "intervals": [interval(each) for each in resampled],
        "differences": [
            None,
            *(None if value is None or first is None else value - first for value in values[1:]),
        ],
        "difference_intervals": [
            None,
            *(interval(each - resampled[0]) for each in resampled[1:]),
        ],
    }
