"""Runs the best models of a grid again over the validation trials, for curves and traces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from surrogate.datasets import Dataset
from surrogate.errors import SurrogateError
from surrogate.evaluation.evaluate import evaluate
from surrogate.evaluation.protocols import Outputs, run_protocol
from surrogate.model.model_file import Model, load
from surrogate.report.runs import Run
from surrogate.report.summary import configuration_name

__all__ = ["Judged", "describe_data", "judge_runs"]

#: Float32 outputs differ between providers; a ROC AUC that moves by more is another model's.
AUC_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Judged:
    """A model run over trials.

    Attributes
    ----------
    run : Run
    model : Model
    outputs : Outputs
    scores : dict
        :func:`surrogate.evaluation.evaluate`'s, without intervals.
    """

    run: Run
    model: Model
    outputs: Outputs
    scores: dict[str, Any]


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """How much there is to train and to judge on."""
    train, valid = (dataset.trial_indices(split) for split in ("train", "valid"))
    return {
        "name": "bundled sample" if dataset.is_sample else dataset.path.name,
        "digest": dataset.digest,
        "train_trials": len(train),
        "train_hours": len(train) * dataset.n_steps * dataset.dt_ms / 3.6e6,
        "valid_trials": len(valid),
        "valid_spikes": int(dataset.output_spike_counts[valid].sum()),
        "trial_ms": dataset.n_steps,
    }


def judge_runs(runs: Sequence[Run], dataset: Dataset) -> tuple[list[Judged], list[str]]:
    """Run the models of ``runs`` over the validation trials.

    Returns
    -------
    list of Judged
    list of str
        What is missing or differs from the record, in words.
    """
    trials = dataset.trial_indices("valid")
    judged, notes = [], []
    for run in runs:
        name = f"{configuration_name(run)} ({run.experiment.hash})"
        try:
            model = load(run.folder / "model.h5")
            outputs = run_protocol(model.stack, dataset, trials, labels=run.experiment.labels)
            scores = evaluate(model, dataset, "valid", bootstrap=0, outputs=outputs)
        except SurrogateError as error:
            notes.append(f"curves and traces of {name}: {error}")
            continue
        judged.append(Judged(run, model, outputs, scores))
        found = scores["roc_auc"]
        if found is None or not math.isclose(found, run.roc_auc or 0, abs_tol=AUC_TOLERANCE):
            notes.append(
                f"{name}: its model file scores ROC AUC {found or 0:.4f} here, its record says "
                f"{run.roc_auc or 0:.4f}"
            )
    return judged, notes
