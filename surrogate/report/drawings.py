"""The figures of a report, each with what a reader who does not see it needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from surrogate.evaluation.anatomy import HIT_MS, OUTCOMES, SHIFT_MS
from surrogate.evaluation.result import Evaluation
from surrogate.plots.evaluation import plot_roc, plot_traces
from surrogate.plots.learning_curve import plot_learning_curve
from surrogate.plots.spikes import plot_spikes
from surrogate.report import blog, figures
from surrogate.report.best_models import EvaluatedRun
from surrogate.report.runs import Run
from surrogate.report.summary import best_of_each, configuration_name
from surrogate.report.svg import Drawing, draw

__all__ = [
    "draw_curves",
    "draw_learning_curve",
    "draw_models",
    "draw_roc",
    "draw_runs",
    "draw_spikes",
    "draw_traces",
]


def draw_runs(runs: Sequence[Run], shares: Mapping[str, Any]) -> list[Drawing]:
    """Score against size, shares and spread of all finished runs; only figures that show any.

    Parameters
    ----------
    runs : sequence of Run
        The best first.
    shares : mapping
        ``by_arch`` and ``by_depth``, from :func:`surrogate.report.summary.shares`.
    """
    drawings = []
    scored = [run for run in runs if run.roc_auc is not None]
    if scored:
        best = best_of_each(scored, lambda run: run.experiment.configuration)
        drawings += [
            draw(
                "auc-all-runs",
                "ROC AUC against parameters, all runs",
                f"Scatter plot of {len(scored)} runs. {_extent(scored)}",
                f"{len(scored)} finished runs; each configuration is one column. Hollow: unstable. "
                f"Dotted: {blog.AUC_GOAL:.2f}.",
                partial(figures.plot_auc_against_parameters, runs=scored),
            ),
            draw(
                "auc-best",
                "ROC AUC against parameters, best run of each configuration",
                f"Scatter plot of {len(best)} configurations. {_extent(best)} "
                f"The blog's ten best lie between {blog.TOP_TEN[-1].roc_auc} and "
                f"{blog.TOP_TEN[0].roc_auc}.",
                "Crosses: the blog's ten best, on its own validation set; several share a size.",
                partial(figures.plot_auc_against_parameters, runs=best, published=blog.TOP_TEN),
            ),
        ]
    if runs:
        drawings.append(
            draw(
                "success",
                "Runs that reach the blog's goal, and unstable ones",
                "Bar charts by architecture and by number of layers; the tables below have the "
                "numbers.",
                "Bars: this grid, of the finished runs. Dashed: the blog, whose share of unstable "
                "runs is that of all architectures together.",
                partial(figures.plot_shares, **shares),
            )
        )
    spread = [run for run in scored if run.scores.get("spread")]
    if spread:
        gaps = [run.scores["spread"]["logit_gap"] for run in spread]
        drawings.append(
            draw(
                "output-spread",
                "ROC AUC against output spread",
                f"Scatter plot of {len(spread)} runs: how far apart the logits at 0.25 % and 5 % "
                f"false positives lie, from {min(gaps):.3g} to {max(gaps):.3g}.",
                "To the left a threshold must be met more precisely. Neighbouring float32 "
                "probabilities around 0.5 are 6e-8 apart.",
                partial(figures.plot_spread, runs=spread),
            )
        )
    return drawings


def _extent(runs: Sequence[Run]) -> str:
    best, last = runs[0], runs[-1]
    return (
        f"ROC AUC from {last.roc_auc:.4f} ({configuration_name(last)}) to {best.roc_auc:.4f} "
        f"({configuration_name(best)})."
    )


def draw_curves(curves: Sequence[tuple[Run, Sequence[Mapping[str, Any]]]]) -> list[Drawing]:
    """Learning curves of the best run of each configuration, if there are any."""
    if not curves:
        return []
    return [
        draw(
            "learning-curves",
            "Learning curves, best run of each configuration",
            f"Training loss and validation ROC AUC of {len(curves)} runs against the optimiser "
            "step, one column per architecture.",
            "Thick and coloured: the architecture's best. Solid: 3 layers or fewer; dashed: more. "
            "The loss depends on the class weight, so curves of different weights differ in "
            "height.",
            partial(figures.plot_learning_curves, curves=curves),
        )
    ]


def draw_models(evaluated: Sequence[EvaluatedRun]) -> list[Drawing]:
    """ROC curve and traces of each model."""
    drawings = []
    for one in evaluated:
        name, arch, evaluation = configuration_name(one.run), one.run.arch, one.evaluation
        if evaluation["thresholds"] is not None:
            title = f"ROC curve of the best {arch.upper()}, {name}"
            drawings.append(draw_roc(f"roc-{arch}", title, evaluation))
        title = f"The best {arch.upper()}, {name}, on a validation trial"
        drawings.append(draw_traces(f"traces-{arch}", title, evaluation))
    return drawings


def draw_roc(name: str, title: str, evaluation: Evaluation) -> Drawing:
    """ROC curve over trials with at least one spike."""
    auc, youden = evaluation["roc_auc"], evaluation["thresholds"]["youden"]
    return draw(
        name,
        title,
        f"ROC AUC {auc:.4f}. At the threshold {youden['probability']:.6g}, Youden's, "
        f"the true positive rate is {youden['tpr']:.3f} and the false positive rate "
        f"{youden['fpr']:.3f}.",
        f"ROC AUC {auc:.4f} over {evaluation['n_trials']} trials, "
        f"{evaluation['n_spikes']} spikes. Numbers along the curve and its colour: the threshold "
        "there, a probability. Right: the same over a logarithmic axis.",
        partial(plot_roc, outputs=evaluation.outputs),
    )


def draw_traces(name: str, title: str, evaluation: Evaluation) -> Drawing:
    """Voltage, spikes and spike probability of one trial beside the neuron's."""
    rule = evaluation.model.spike_rule
    if rule is None:
        note = "The model has no spike rule, so no spikes of its own."
    else:
        note = f"Spike rule: {rule.in_words(evaluation.outputs.dt_ms)}."
    return draw(
        name,
        title,
        "Soma voltage, spikes and spike probability of the surrogate beside the neuron's, for a "
        "whole trial and 600 ms of it.",
        "The trial whose number of spikes is closest to the median. Black, thick: the neuron; "
        f"vermilion, thin: the surrogate. Dashed: the level. {note}",
        partial(plot_traces, outputs=evaluation.outputs, rule=rule),
    )


def draw_spikes(evaluation: Evaluation) -> Drawing:
    """How well the spikes of a model with a rule are the neuron's."""
    anatomy = evaluation["error_anatomy"]
    counts = ", ".join(f"{anatomy[outcome]} {outcome}" for outcome in OUTCOMES)
    return draw(
        "spikes",
        "Emitted spikes",
        f"Bars of spikes by outcome and place: {counts}. F1 by distance, distributions of "
        "intervals, reliability curve, F1 and rate at other levels of the spike rule, and output "
        "rate against excitation at three inhibitions.",
        f"Hit: within {HIT_MS} ms of a spike of the neuron's. Shifted: within {SHIFT_MS} ms. Bars "
        "of the reliability curve: 95 % over trials; dotted: perfect calibration. Other levels: "
        "how much F1 and rate change if the odds p / (1 - p) of the level are multiplied.",
        partial(plot_spikes, scores=evaluation),
    )


def draw_learning_curve(history: Sequence[Mapping[str, Any]]) -> Drawing:
    """Learning curve of one run."""
    return draw(
        "learning-curve",
        "Learning curve",
        f"Training loss, validation ROC AUC and voltage error over {len(history)} epochs.",
        f"{len(history)} epochs; the dot is the epoch kept.",
        partial(plot_learning_curve, history=history),
    )
