"""The learning curve of a run as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surrogate.plots.style import figure_style, save_figure

__all__ = ["plot_learning_curve"]


@figure_style()
def plot_learning_curve(path: str | Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses, validation ROC AUC and voltage error against the optimiser step.

    Parameters
    ----------
    path : str or Path
        Ending in .png or .svg.
    history : sequence of mappings
        The lines of ``metrics.jsonl``.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    steps = [entry["step"] for entry in history]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    losses, auc, voltage = figure.subplots(1, 3)
    for key, colour in (("spike_loss", "#0072b2"), ("voltage_loss", "#d55e00")):
        losses.plot(steps, [entry[key] for entry in history], color=colour, label=key[:-5])
    losses.set(yscale="log", title="training loss", xlabel="optimiser step")
    losses.legend(frameon=False)
    for axes, key, title in (
        (auc, "roc_auc", "validation ROC AUC"),
        (voltage, "voltage_rmse_mv", "validation voltage RMSE (mV)"),
    ):
        # A validation subset without spikes has no ROC AUC: a gap in the curve.
        values = [float("nan") if entry[key] is None else entry[key] for entry in history]
        axes.plot(steps, values, color="#009e73")
        kept = [index for index, entry in enumerate(history) if entry["kept"]]
        if kept:
            axes.plot(steps[kept[-1]], values[kept[-1]], "o", color="black", label="kept")
            axes.legend(frameon=False)
        axes.set(title=title, xlabel="optimiser step")
    for axes in (losses, auc, voltage):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
