"""The ratios of a benchmark as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surrogate.plots.style import figure_style, save_figure

__all__ = ["plot_ratios"]

# Okabe and Ito's palette, which colour-blind people tell apart.
_COLOURS = {
    "torch.nn": "#0072b2",
    "onnxruntime": "#e69f00",
    "torch.events": "#009e73",
    "cudnn-tf32": "#56b4e9",
    "cudnn-fp32": "#0072b2",
    "cudnn-fp16": "#cc79a7",
}


@figure_style()
def plot_ratios(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw a bar per row: how many times ours is faster than the peer, on a logarithmic axis.

    Parameters
    ----------
    path : str or Path
        PNG or SVG by its suffix.
    rows : sequence of dict
        As :func:`surrogate.benchmarks.bench.bench` gives them; those without a ratio are left out.

    Raises
    ------
    UsageError
        If the suffix is neither.
    DataError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [row for row in rows if row["ratio"] is not None]
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    colours = [_COLOURS[row["provider"]] for row in rows]
    axes.barh(places, [row["ratio"] for row in rows], color=colours)
    for place, row in zip(places, rows, strict=True):
        if row["goal"] is not None:
            axes.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times faster than the peer (line: goal)")
    axes.margins(y=0.01)
    names = list(dict.fromkeys(row["provider"] for row in rows))
    figure.legend(
        handles=[Patch(color=_COLOURS[name], label=name) for name in names],
        loc="outside upper right",
        ncols=len(names),
        frameon=False,
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, dpi=150)


def _label(row: dict[str, Any]) -> str:
    size = f"N={row['neurons']}" if row["mode"] == "step" else f"{row['batch']} x {row['steps']}"
    return f"{row['config']}, {row['mode']} {size}  {row['ratio']:.1f}x"
