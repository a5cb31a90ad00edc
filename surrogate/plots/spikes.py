"""A figure of how well a surrogate's spikes are those of its neuron."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogate.evaluation.anatomy import OUTCOMES
from surrogate.plots.style import figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_spikes"]

# Okabe and Ito's palette.
_NEURON, _SURROGATE, _LEVEL = "black", "#D55E00", "#0072B2"
_OUTCOME_COLOURS = {"hit": "#009E73", "shifted": "#F0E442", "missed": "#999999", "false": "#D55E00"}
_PLACES = {"alone": "alone", "burst_first": "first in\na burst", "burst_later": "later in\na burst"}


@figure_style()
def plot_spikes(path: str | os.PathLike[str], scores: Mapping[str, Any]) -> None:
    """Draw errors by place, coincidences, intervals, reliability, other levels and f-I curves.

    Parameters
    ----------
    path : path
        Ending in .png or .svg.
    scores : mapping
        What :func:`surrogate.evaluate` gives of a model with a spike rule, on trials with spikes.

    Raises
    ------
    UsageError
        If the path ends otherwise.
    DataError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.5), layout="constrained")
    (outcomes, windows, lengths), (reliability, sensitivity, rates) = figure.subplots(2, 3)
    _draw_outcomes(outcomes, scores["error_anatomy"])
    _draw_windows(windows, scores)
    _draw_intervals(lengths, scores["interspike_intervals"])
    _draw_reliability(reliability, scores["reliability"])
    _draw_sensitivity(sensitivity, scores["threshold_sensitivity"])
    if scores["f_i_curves"]:
        _draw_rates(rates, scores["f_i_curves"])
    else:
        rates.set_axis_off()
    save_figure(figure, path)


def _draw_outcomes(axes: Axes, anatomy: Mapping[str, Any]) -> None:
    bars = {name: anatomy["by_place"][place] for place, name in _PLACES.items()}
    bars["emitted"] = {"hit": anatomy["hit"], "shifted": anatomy["shifted"]}
    bars["emitted"]["false"] = anatomy["false"]
    below = np.zeros(len(bars))
    for outcome in OUTCOMES:
        counts = np.array([bar.get(outcome, 0) for bar in bars.values()])
        colour = _OUTCOME_COLOURS[outcome]
        axes.bar(list(bars), counts, 0.7, below, color=colour, label=outcome)
        below += counts
    axes.set(ylabel="spikes", title="The neuron's spikes, and those emitted")
    axes.legend(frameon=False, ncols=2)


def _draw_windows(axes: Axes, scores: Mapping[str, Any]) -> None:
    for name, marker, label in (
        ("event_f1", "o-", "F1"),
        ("event_precision", "^--", "precision"),
        ("event_recall", "v--", "recall"),
    ):
        values = {
            float(ms): value for ms, value in (scores[name] or {}).items() if value is not None
        }
        axes.plot(list(values), list(values.values()), marker, color=_SURROGATE, label=label)
    axes.set(xlabel="greatest distance (ms)", title="Coincident spikes", ylim=(0, 1))
    axes.legend(frameon=False)


def _draw_rates(axes: Axes, curves: list[dict[str, Any]]) -> None:
    for curve, shade in zip(curves, np.linspace(0.35, 1, len(curves)), strict=True):
        at = [point["excitation_hz"] for point in curve["points"]]
        for side, colour, style in (("neuron", _NEURON, "o-"), ("surrogate", _SURROGATE, "s--")):
            rate = [point[f"{side}_hz"] for point in curve["points"]]
            label = f"{side}, inhibition {curve['inhibition_hz']:.2g} Hz"
            axes.plot(at, rate, style, color=colour, alpha=shade, markersize=4, label=label)
    axes.set(
        xlabel="excitation (Hz per synapse)", ylabel="output (Hz)", title="Output against input"
    )
    axes.legend(frameon=False, fontsize=7)


def _draw_intervals(axes: Axes, histogram: Mapping[str, Any]) -> None:
    edges = histogram["edges_ms"]
    for side, colour, linewidth in (("neuron", _NEURON, 1.8), ("surrogate", _SURROGATE, 1.2)):
        counts = np.array(histogram[side])
        shares = counts / max(counts.sum(), 1)
        axes.stairs(shares, edges, color=colour, linewidth=linewidth, label=side)
    axes.set(xscale="log", xlabel="interval (ms)", ylabel="share of intervals", title="Intervals")
    axes.legend(frameon=False)


def _draw_reliability(axes: Axes, curve: list[dict[str, Any]]) -> None:
    given = np.array([part["mean_probability"] for part in curve])
    share = np.array([part["spike_share"] for part in curve])
    floor = min(given.min(), share[share > 0].min(initial=1)) / 2
    for part in curve:
        low, high = np.maximum(part["spike_share_interval"] or (floor, floor), floor)
        axes.vlines(part["mean_probability"], low, high, color=_SURROGATE)
    axes.plot(given, np.maximum(share, floor), "o", color=_SURROGATE)
    axes.plot([floor, 1], [floor, 1], ":", color="grey", linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="spike probability given",
        ylabel="share of bins with a spike",
        title="Reliability",
    )


def _draw_sensitivity(axes: Axes, others: list[dict[str, Any]]) -> None:
    factors = [other["factor"] for other in others]
    for key, colour, label in (
        ("event_f1_mean", _SURROGATE, "F1, mean within 0 to 5 ms"),
        ("rate_ratio", _LEVEL, "emitted over true rate"),
    ):
        axes.plot(factors, [other[key] for other in others], "o-", color=colour, label=label)
    axes.axvline(1, color="grey", linestyle=":", linewidth=1)
    axes.set(
        xscale="log", xlabel="odds of the level, relative", title="Other levels", ylim=(0, None)
    )
    axes.set_xticks(factors, [f"{factor:g}" for factor in factors], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
