"""Figures of an evaluation: ROC curve (also on a terminal), and traces beside the neuron's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.protocols import Outputs
from surrogate.evaluation.result import Evaluation
from surrogate.evaluation.roc import Roc, ideal_thresholds, sigmoid
from surrogate.evaluation.scores import VOLTAGE_CLIP_MV
from surrogate.model.spike_rule import SpikeRule
from surrogate.plots.spikes import plot_spikes
from surrogate.plots.style import figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

__all__ = ["plot_evaluation", "plot_roc", "plot_traces", "roc_in_terminal"]

_NAMES = {"youden": "Youden's J", "gmean": "G-mean", "rate": "output rate"}
_MARKERS = {"youden": "o", "gmean": "s", "rate": "^"}
# Okabe and Ito's palette, which colour-blind people can distinguish.
_TRUE, _PREDICTED, _LEVEL = "black", "#D55E00", "#0072B2"
#: Length of the close-up of a trace, ms.
_CLOSE_UP_MS = 600


def plot_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Draw traces, the ROC curve if there is one, and emitted spikes, each as PNG and SVG.

    Returns
    -------
    list of Path
        The files.
    """
    outputs, rule = evaluation.outputs, evaluation.model.spike_rule
    drawn = []
    for kind in ("png", "svg"):
        if outputs.rankable:
            drawn.append(folder / f"roc.{kind}")
            plot_roc(drawn[-1], outputs)
        if rule is not None and evaluation["n_spikes"]:
            drawn.append(folder / f"spikes.{kind}")
            plot_spikes(drawn[-1], evaluation)
        drawn.append(folder / f"traces.{kind}")
        plot_traces(drawn[-1], outputs, rule)
    return drawn


@figure_style()
def plot_roc(path: str | os.PathLike[str], outputs: Comparison) -> None:
    """Draw the ROC curve, coloured by threshold, over linear and over logarithmic FPR.

    Parameters
    ----------
    path : path
        Ending in .png or .svg.
    outputs : Comparison
        With at least one spike.

    Raises
    ------
    UsageError
        If the path ends otherwise.
    DataError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    roc = outputs.roc
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    linear, logarithmic = figure.subplots(1, 2)
    # Most bins are silent: thresholds that half of them reach would take up most of the colours.
    colours = (float(roc.logit[roc.fpr <= 0.5].min(initial=roc.logit[0])), float(roc.logit[0]))
    smallest = 0.5 / (outputs.spikes == 0).sum()
    for axes, x in ((linear, roc.fpr), (logarithmic, np.maximum(roc.fpr, smallest))):
        curve = _draw_curve(axes, x, roc, smallest, logarithmic=axes is logarithmic)
        curve.set_clim(*colours)
        for name, point in ideal_thresholds(outputs.logits, outputs.spikes).items():
            axes.plot(
                max(point["fpr"], smallest),
                point["tpr"],
                _MARKERS[name],
                color=_PREDICTED,
                markeredgecolor="white",
                label=f"{_NAMES[name]}: {point['probability']:.6g}",
                zorder=3,
            )
        axes.set(xlabel="false positive rate", ylim=(-0.02, 1.02))
    linear.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    linear.set(ylabel="true positive rate", xlim=(-0.02, 1.02))
    linear.legend(loc="lower right", title="threshold probability by", frameon=False)
    logarithmic.set(xscale="log", xlim=(smallest, 1.1))
    ticks = np.linspace(*colours, 6) if colours[0] < colours[1] else np.array(colours[:1])
    bar = figure.colorbar(curve, ax=logarithmic, ticks=ticks, label="threshold probability")
    bar.set_ticklabels(_distinct_labels(sigmoid(ticks)))
    save_figure(figure, path)


def _draw_curve(
    axes: Axes, x: NDArray[np.float64], roc: Roc, smallest: float, logarithmic: bool
) -> LineCollection:
    """The curve in segments coloured by logit, some labelled with the threshold's probability."""
    from matplotlib.collections import LineCollection

    # Points at equal distances along the drawn curve: a file of all points would be megabytes.
    along = np.log10(x) / np.log10(smallest) if logarithmic else x
    length = np.cumsum(np.abs(np.diff(along, prepend=along[0])) + np.diff(roc.tpr, prepend=0))
    keep = np.searchsorted(length, np.linspace(0, length[-1], 800)).clip(0, len(x) - 1)
    keep = np.unique(keep)
    points = np.column_stack([x[keep], roc.tpr[keep]])
    points = np.vstack([[smallest if logarithmic else 0, 0], points])
    curve = LineCollection(
        list(np.stack([points[:-1], points[1:]], axis=1)),
        cmap="viridis",
        linewidths=2.5,
        capstyle="round",
    )
    curve.set_array(roc.logit[keep])
    axes.add_collection(curve)
    heights = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
    labelled = np.unique(np.searchsorted(roc.tpr, heights).clip(0, len(x) - 1))
    for index, text in zip(labelled, _distinct_labels(sigmoid(roc.logit[labelled])), strict=True):
        axes.annotate(
            text,
            (x[index], roc.tpr[index]),
            xytext=(8, -4) if not logarithmic else (-8, 4),
            ha="left" if not logarithmic else "right",
            textcoords="offset points",
            fontsize=8,
        )
    return curve


def _distinct_labels(values: Iterable[float]) -> list[str]:
    """Numbers with just enough digits to differ: some models need five decimals."""
    values = list(values)
    for digits in range(2, 17):
        labels = [f"{value:.{digits}g}" for value in values]
        if len(set(labels)) == len(set(values)):
            break
    return labels


@figure_style()
def plot_traces(
    path: str | os.PathLike[str], outputs: Outputs, rule: SpikeRule | None = None
) -> None:
    """Draw voltage, spikes and spike probability of one trial, with the neuron's, and a close-up.

    The trial is the one whose number of spikes is closest to the median of those that spiked.

    Parameters
    ----------
    path : path
        Ending in .png or .svg.
    outputs : Outputs
        With emitted spikes, these are drawn too.
    rule : SpikeRule, optional
        Its level is drawn.

    Raises
    ------
    UsageError
        If the path ends otherwise.
    DataError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    logits, spikes, dt = outputs.logits, outputs.spikes, outputs.dt_ms
    start_ms, close_up = outputs.first_bin * dt, max(1, round(_CLOSE_UP_MS / dt))
    trial = _typical_trial(spikes)
    times = np.flatnonzero(spikes[trial])
    centre = int(times[len(times) // 2]) if len(times) else spikes.shape[1] // 2
    steps = spikes.shape[1]
    first = min(max(0, centre - close_up // 2), max(0, steps - close_up))
    figure = Figure(figsize=(13, 6), layout="constrained")
    columns = figure.subplots(
        3, 2, sharex="col", height_ratios=(4, 1, 2), width_ratios=(2, 1)
    ).transpose()
    for (trace, raster, chance), (start, stop) in zip(
        columns, ((0, steps), (first, min(first + close_up, steps))), strict=True
    ):
        t = start_ms + np.arange(start, stop) * dt
        for values, colour, linewidth, name in (
            (outputs.target, _TRUE, 1.8, "neuron"),
            (outputs.voltage, _PREDICTED, 0.9, "surrogate"),
        ):
            shown = np.minimum(values[trial, start:stop], VOLTAGE_CLIP_MV)
            trace.plot(t, shown, color=colour, linewidth=linewidth, label=name)
        chance.plot(t, sigmoid(logits[trial, start:stop]), color=_PREDICTED, linewidth=1)
        emitted = None if outputs.emitted is None else outputs.emitted[trial]
        _draw_raster(raster, start_ms, dt, spikes[trial], emitted)
        if rule is not None and rule.kind != "stochastic":
            chance.axhline(sigmoid(rule.logit), color=_LEVEL, linestyle="--", linewidth=1)
        chance.set(xlabel="time (ms)", xlim=(start_ms + start * dt, start_ms + stop * dt))
    columns[0, 0].set(ylabel=f"soma voltage (mV)\nclipped at {VOLTAGE_CLIP_MV:g} mV")
    columns[0, 0].legend(loc="lower right", ncols=2, frameon=False)
    columns[0, 2].set(ylabel="spike probability\nper bin")
    save_figure(figure, path)


def _typical_trial(spikes: NDArray[np.integer]) -> int:
    counts = spikes.sum(axis=1, dtype=np.int64)
    typical = np.median(counts[counts > 0]) if counts.any() else 0
    return int(np.argmin(np.abs(counts - typical)))


def _draw_raster(
    axes: Axes,
    start_ms: float,
    dt_ms: float,
    true: NDArray[np.integer],
    emitted: NDArray[np.bool_] | None,
) -> None:
    rows = [("neuron", true, _TRUE)]
    if emitted is not None:
        rows.append(("surrogate", emitted.astype(np.uint8), _PREDICTED))
    for row, (_, train, colour) in enumerate(rows):
        times = start_ms + np.flatnonzero(train) * dt_ms
        axes.vlines(times, row - 0.4, row + 0.4, color=colour, linewidth=1.2)
    axes.set_yticks(range(len(rows)), [f"{name} spikes" for name, _, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5))


def roc_in_terminal(outputs: Comparison, width: int = 60, height: int = 16) -> str:
    """The ROC curve in braille characters, ``width`` x ``height`` of them, with axes.

    Without a spike, one line that says so.
    """
    if not outputs.rankable:
        return "no ROC curve: it needs bins with and without an output spike"
    columns, rows = 2 * width, 4 * height
    reached = [outputs.roc.tpr_at(x) for x in np.linspace(0, 1, columns)]
    dots = np.zeros((rows, columns), dtype=bool)
    below = 0
    for column, tpr in enumerate(reached):
        level = round(tpr * (rows - 1))
        dots[min(below, level) : level + 1, column] = True
        below = level
    chance = np.arange(0, columns, 4)
    dots[np.rint(chance * (rows - 1) / (columns - 1)).astype(int), chance] = True
    lines = [f"true positive rate ({outputs.spikes.sum()} spikes, {len(outputs.spikes)} trials)"]
    for row, text in enumerate(_braille(dots[::-1])):
        tick = {0: "1.0", height // 2: "0.5"}.get(row, "")
        lines.append(f"{tick:>3} {'┤' if tick else '│'}{text}")
    lines.append("0.0 └" + "─" * width)
    scale = "0" + "0.5".center(width - 4) + "1.0"
    lines.append(" " * 5 + scale)
    lines.append(" " * 5 + "false positive rate".center(width))
    return "\n".join(lines)


def _braille(dots: NDArray[np.bool_]) -> list[str]:
    """Lines of braille characters, each 4 rows by 2 columns of ``dots``."""
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    rows, columns = dots.shape
    cells = dots.reshape(rows // 4, 4, columns // 2, 2).transpose(0, 2, 1, 3)
    return ["".join(chr(0x2800 + code) for code in line) for line in (cells * bits).sum((2, 3))]
