"""Runs the best models of a grid again over the validation trials, for curves and traces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from surrogate.datasets import Dataset
from surrogate.errors import SurrogateError
from surrogate.evaluation.evaluate import evaluate
from surrogate.evaluation.result import Evaluation
from surrogate.report.runs import Run
from surrogate.report.summary import configuration_name
from surrogate.training.run_folder import RunFolder

__all__ = ["EvaluatedRun", "describe_data", "evaluate_runs"]

#: Float32 outputs differ between providers; a larger difference in ROC AUC is another model's.
AUC_TOLERANCE = 1e-4


@dataclass(frozen=True)
class EvaluatedRun:
    """A run of the grid and its model, run again; the evaluation has no intervals."""

    run: Run
    evaluation: Evaluation


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """How much there is to train and to evaluate on."""
    train, valid = (dataset.trial_indices(split) for split in ("train", "valid"))
    return {
        "name": "bundled sample" if dataset.is_sample else dataset.path.name,
        "digest": dataset.digest,
        "train_trials": len(train),
        "train_hours": len(train) * dataset.n_steps * dataset.dt_ms / 3.6e6,
        "valid_trials": len(valid),
        "valid_spikes": int(dataset.output_spike_counts[valid].sum()),
        "trial_ms": dataset.header.duration_ms,
    }


def evaluate_runs(runs: Sequence[Run], dataset: Dataset) -> tuple[list[EvaluatedRun], list[str]]:
    """Run the models of ``runs`` over the validation trials.

    Returns
    -------
    list of EvaluatedRun
    list of str
        What is missing or differs from the record, in words.
    """
    evaluated, notes = [], []
    for run in runs:
        name = f"{configuration_name(run)} ({run.experiment.hash})"
        try:
            evaluation = evaluate(
                RunFolder(run.folder).model,
                dataset,
                split="valid",
                labels=run.experiment.labels,
                bootstrap=0,
            )
        except SurrogateError as error:
            notes.append(f"curves and traces of {name}: {error}")
            continue
        evaluated.append(EvaluatedRun(run, evaluation))
        found = evaluation["roc_auc"]
        if found is None or not math.isclose(found, run.roc_auc or 0, abs_tol=AUC_TOLERANCE):
            notes.append(
                f"{name}: its model file scores ROC AUC {found or 0:.4f} here, its record says "
                f"{run.roc_auc or 0:.4f}"
            )
    return evaluated, notes
