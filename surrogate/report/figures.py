"""The figures of a grid: each draws one SVG file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surrogate.kernels import ARCHITECTURES, join_sizes
from surrogate.report import blog
from surrogate.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_auc_against_parameters",
    "plot_learning_curves",
    "plot_shares",
    "plot_spread",
]

# Colours of Okabe and Ito that stand out from white; the markers differ too.
_GREY = "#595959"


def plot_auc_against_parameters(
    path: Path, runs: Sequence[Run], published: Sequence[blog.PublishedRun] = ()
) -> None:
    """Draw ROC AUC against the number of parameters; hollow markers are unstable runs.

    Parameters
    ----------
    path : Path
    runs : sequence of Run
        With a ROC AUC.
    published : sequence of PublishedRun
        Of the blog, drawn beside ours.
    """
    figure, axes = _figure(8, 4.4)
    _scatter(axes, runs, [run.parameters for run in runs])
    if published:
        axes.plot(
            [run.parameters for run in published],
            [run.roc_auc for run in published],
            "+",
            color="black",
            markersize=9,
            label="the blog's ten best",
        )
    axes.axhline(blog.AUC_GOAL, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="parameters", ylabel="ROC AUC, validation trials")
    _legend_beside(axes)
    figure.savefig(path, format="svg")


def plot_spread(path: Path, runs: Sequence[Run]) -> None:
    """Draw ROC AUC against the gap between the logits at 0.25 % and 5 % false positives.

    Parameters
    ----------
    path : Path
    runs : sequence of Run
        With a ROC AUC and a spread.
    """
    figure, axes = _figure(8, 4)
    _scatter(axes, runs, [run.scores["spread"]["logit_gap"] for run in runs])
    # Outputs that are pinned at one end have no gap at all, which a logarithm cannot show.
    axes.set_xscale("symlog", linthresh=1e-7)
    axes.set_xlim(left=-2e-8)
    axes.set(
        xlabel="logit at 0.25 % false positives minus logit at 5 %",
        ylabel="ROC AUC, validation trials",
    )
    _legend_beside(axes)
    figure.savefig(path, format="svg")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _scatter(axes: Axes, runs: Sequence[Run], x: Sequence[float]) -> None:
    for arch, look in ARCHITECTURES.items():
        for unstable in (False, True):
            chosen = [
                (place, run.roc_auc)
                for place, run in zip(x, runs, strict=True)
                if (run.arch, run.unstable) == (arch, unstable)
            ]
            if chosen:
                axes.plot(
                    *zip(*chosen, strict=True),
                    look.marker,
                    color=look.colour,
                    markerfacecolor="none" if unstable else look.colour,
                    alpha=0.85,
                    label=f"{arch.upper()}{', unstable' if unstable else ''}",
                )


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def plot_shares(
    path: Path, by_arch: Sequence[Mapping[str, Any]], by_depth: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the shares of runs that reached the blog's goal, and of unstable ones.

    Parameters
    ----------
    path : Path
    by_arch, by_depth : sequence of mappings
        From :func:`surrogate.report.summary.shares`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    arch, depth, unstable = figure.subplots(1, 3, sharey=True)
    for axes, groups in ((arch, by_arch), (depth, by_depth)):
        _bars(axes, groups, "reached")
        axes.set_title(f"ROC AUC of {blog.AUC_GOAL:.2f} or more")
        for place, group in enumerate(groups):
            if group["blog_share"] is not None:
                _blog_line(axes, group["blog_share"], place, place)
    _bars(unstable, by_arch, "unstable")
    unstable.set_title("unstable")
    _blog_line(unstable, blog.UNSTABLE_SHARE, 0, len(by_arch) - 1)
    arch.set(ylabel="share of finished runs (%)", ylim=(0, 108))
    figure.legend(unstable.lines[-1:], ["the blog"], frameon=False, loc="outside lower center")
    figure.savefig(path, format="svg")


def _bars(axes: Axes, groups: Sequence[Mapping[str, Any]], counted: str) -> None:
    bars = axes.bar(
        range(len(groups)),
        [100 * group[counted] / group["runs"] for group in groups],
        0.6,
        color=[
            ARCHITECTURES[group["group"]].colour if group["group"] in ARCHITECTURES else _GREY
            for group in groups
        ],
    )
    labels = [f"{group[counted]} of {group['runs']}" for group in groups]
    axes.bar_label(bars, labels, padding=2, fontsize=9)
    axes.set_xticks(range(len(groups)), [_group_name(group["group"]) for group in groups])


def _blog_line(axes: Axes, share: float, first: int, last: int) -> None:
    """The blog's share, across the bars ``first`` to ``last``."""
    ends, heights = [first - 0.42, last + 0.42], [100 * share] * 2
    axes.plot(ends, heights, color="black", linewidth=1.5, linestyle=(0, (3, 1.5)))


def _group_name(group: str | int) -> str:
    return group.upper() if isinstance(group, str) else f"{group} layers"


def plot_learning_curves(
    path: Path, curves: Sequence[tuple[Run, Sequence[Mapping[str, Any]]]]
) -> None:
    """Draw training loss and validation ROC AUC against the optimiser step, by architecture.

    Parameters
    ----------
    path : Path
    curves : sequence of (Run, list)
        Runs, the best first, and the lines of their ``metrics.jsonl``.
    """
    from matplotlib.figure import Figure

    archs = [arch for arch in ARCHITECTURES if any(run.arch == arch for run, _ in curves)]
    figure = Figure(figsize=(3.4 * len(archs) + 0.6, 5.6), layout="constrained")
    grid = figure.subplots(2, len(archs), sharex="col", sharey="row", squeeze=False)
    for (loss, auc), arch in zip(grid.T, archs, strict=True):
        own = [curve for curve in curves if curve[0].arch == arch]
        for place, (run, history) in enumerate(own):
            style = {
                "color": ARCHITECTURES[arch].colour if place == 0 else _GREY,
                "linewidth": 2 if place == 0 else 0.8,
                "linestyle": "-" if len(run.hidden_sizes) <= 3 else (0, (4, 1.5)),
                "zorder": 3 if place == 0 else 2,
                "label": join_sizes(run.hidden_sizes),
            }
            steps = [entry["step"] for entry in history]
            for axes, key in ((loss, "loss"), (auc, "roc_auc")):
                # A validation subset without spikes has no ROC AUC: a gap in the curve.
                axes.plot(steps, [_number(entry[key]) for entry in history], **style)
        loss.set(title=arch.upper(), yscale="log")
        loss.legend(fontsize=8, frameon=False, loc="upper right")
        auc.set(xlabel="optimiser step")
    grid[0, 0].set_ylabel("training loss")
    grid[1, 0].set_ylabel("validation ROC AUC,\nwhile training")
    figure.savefig(path, format="svg")


def _number(value: float | None) -> float:
    return math.nan if value is None else value
