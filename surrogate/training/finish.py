"""The end of a training run: model file, plots and result."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from surrogate import machine
from surrogate.evaluation.choose_rule import choose_rule
from surrogate.evaluation.evaluate import evaluate_outputs
from surrogate.evaluation.protocols import run_protocol
from surrogate.evaluation.result import Evaluation
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model, save
from surrogate.plots.evaluation import plot_roc, plot_traces
from surrogate.plots.learning_curve import plot_learning_curve
from surrogate.training.selection import instability
from surrogate.training.trainer import Trainer

__all__ = ["finish"]


def finish(trainer: Trainer, plots: bool = True) -> dict[str, Any]:
    """Evaluate the epoch kept on all validation trials, and write the run's model file and result.

    Parameters
    ----------
    trainer : Trainer
        After its :meth:`Trainer.run`.
    plots : bool
        Whether to draw the learning curve, the ROC curve and a trace overlay.

    Returns
    -------
    dict
        What ``result.json`` holds: run folder, model file, the epoch kept, whether the run was
        unstable and why, and the validation metrics.

    Raises
    ------
    SurrogateError
        If the run failed before an epoch ended, or a file cannot be written.
    """
    folder, dataset = trainer.folder, trainer.dataset
    stack = trainer.best_stack()
    outputs = run_protocol(
        stack.to(trainer.device), dataset, trainer.valid_trials, labels=trainer.config.labels
    )
    stack.cpu()
    card = _card(trainer)
    if outputs.spikes.any():
        of = f"the valid trials of {dataset.digest[:12]}"
        card.spike_rule = choose_rule(outputs.logits, outputs.spikes, outputs.dt_ms, of)
    evaluation = evaluate_outputs(Model(stack, card), dataset, "valid", outputs)
    card.metrics = metrics = dict(evaluation)
    save(folder.model, stack, card)
    assert trainer.selection.entry is not None
    unstable = instability(trainer.history, trainer.failure)
    result = {
        "run": str(folder.path),
        "model": str(folder.model),
        "epochs": len(trainer.history),
        "epoch_kept": trainer.selection.entry["epoch"],
        "unstable": unstable is not None,
        "unstable_reason": unstable,
        "training_seconds": round(trainer.seconds, 3),
        "validation": metrics,
    }
    folder.write_result(result)
    if plots:
        try:
            _plot(trainer, evaluation)
        except Exception as error:  # whatever a figure meets must not cost the training
            print(f"surrogate: the figures of {folder.path} failed ({error})", file=sys.stderr)
    return result


def _plot(trainer: Trainer, evaluation: Evaluation) -> None:
    folder, outputs = trainer.folder, evaluation.outputs
    plot_learning_curve(folder.path / "learning_curve.png", trainer.history)
    if outputs.spikes.any():
        plot_roc(folder.path / "roc.png", outputs)
    plot_traces(folder.path / "traces.png", outputs, evaluation.model.spike_rule)


def _card(trainer: Trainer) -> ModelCard:
    config, dataset, teacher = trainer.config, trainer.dataset, trainer.teacher
    some = trainer.train_trials[:1000]
    resting = np.median(dataset.voltage(some, np.zeros(len(some), dtype=np.int64), 1))
    taught: dict[str, Any] = {}
    if teacher is not None:
        drawn = {"trials": config.recipe.teacher_trials, "seed": config.seed}
        taught = {"digest": teacher.digest, "protocol": teacher.protocol.description, **drawn}
    return ModelCard(
        trainer.stack.spec,
        dataset.channels,
        dataset.dt_ms,
        segments={name: column.tolist() for name, column in dataset.segments.items()},
        resting_voltage_mv=float(resting),
        input_rate_hz=trainer.input_rate_hz,
        recipe=config.recipe.to_dict(),
        seed=config.seed,
        data={
            "digest": dataset.digest,
            "labels": config.labels,
            "train_trials": len(trainer.train_trials),
            "valid_trials": len(trainer.valid_trials),
            "teacher": taught,
        },
        versions=machine.versions(),
    )
