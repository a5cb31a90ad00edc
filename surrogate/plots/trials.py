"""A figure of one trial: input spikes, soma voltage, output spikes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from surrogate.datasets.reader import Dataset
from surrogate.errors import UsageError
from surrogate.files import atomic_path

__all__ = ["plot_trial", "save_figure"]

_EXCITATORY, _INHIBITORY, _SOMA, _SPIKE = "#c1440e", "#2b5c8a", "#222222", "#0a7d4f"
_RATE_WINDOW_MS = 20


def plot_trial(data: Dataset, trial: int, start: int = 0, stop: int | None = None) -> Figure:
    """Input raster, input rates, soma voltage and output spikes of ``start..stop`` ms.

    Parameters
    ----------
    data : Dataset
        An open data file.
    trial : int
        Number of the trial.
    start, stop : int
        In ms; ``stop`` defaults to the end of the trial.

    Raises
    ------
    UsageError
        If there is no such trial or stretch of it.
    """
    stop = data.n_steps if stop is None else stop
    if not 0 <= trial < len(data):
        raise UsageError(f"no trial {trial} in {data.path}; expected 0..{len(data) - 1}")
    if not 0 <= start < stop <= data.n_steps:
        raise UsageError(
            f"no stretch {start}..{stop} ms; expected 0 <= start < stop <= {data.n_steps}"
        )
    shown = data[trial]
    rows = np.repeat(np.arange(data.n_steps), np.diff(shown.row_ptr))
    inside = (rows >= start) & (rows < stop)
    time, channel = rows[inside], shown.channel[inside]
    excitatory = channel < data.n_excitatory

    figure = Figure(figsize=(10, 7), layout="constrained")
    raster, rate, soma = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1.3, 2))
    for mask, color, label, row in (
        (excitatory, _EXCITATORY, "excitatory", 0),
        (~excitatory, _INHIBITORY, "inhibitory", data.n_excitatory),
    ):
        n_synapses = data.n_excitatory if row == 0 else data.n_inputs - data.n_excitatory
        # Tens of thousands of dots would make a vector graphic unusable.
        raster.plot(time[mask], channel[mask], ",", color=color, rasterized=True)
        rate.plot(
            np.arange(start, stop),
            _rate_hz(time[mask] - start, stop - start, n_synapses),
            color=color,
            linewidth=0.8,
            label=f"{label} ({mask.sum() / n_synapses / (stop - start) * 1e3:.1f} Hz per synapse)",
        )
    raster.set(ylabel="input channel", ylim=(0, data.n_inputs))
    # Room for the legend above the curves.
    rate.set(ylabel="input rate (Hz)", ylim=(0, 1.4 * rate.get_ylim()[1]))
    rate.legend(loc="upper right", fontsize="small", ncols=2, frameon=False)
    soma.plot(np.arange(start, stop), shown.soma_voltage_mV[start:stop], color=_SOMA, linewidth=0.8)
    spikes = shown.spike_time_ms[(shown.spike_time_ms >= start) & (shown.spike_time_ms < stop)]
    soma.plot(spikes, np.full(spikes.size, 30.0), "|", color=_SPIKE, markersize=12)
    soma.set(ylabel="soma voltage (mV)", xlabel="time (ms)", xlim=(start, stop))
    seed, index = shown.source
    figure.suptitle(
        f"trial {trial} (run {seed}, number {index}): {channel.size:,} input events, "
        f"{spikes.size} output spikes"
    )
    return figure


def _rate_hz(time: np.ndarray, steps: int, n_synapses: int) -> np.ndarray:
    """Rate per synapse in Hz, over a sliding window of 20 ms."""
    counts = np.bincount(time, minlength=steps)
    width = min(_RATE_WINDOW_MS, steps)
    window = np.ones(width)
    covered = np.convolve(np.ones(steps), window, "same")
    return np.convolve(counts, window, "same") / covered / n_synapses * 1e3


def save_figure(figure: Figure, out: Path) -> None:
    """Write ``figure`` to ``out``, as PNG or SVG by its ending.

    Raises
    ------
    UsageError
        If the ending is neither.
    DataError
        If the file cannot be written.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UsageError(f"{out}: unknown picture format {out.suffix!r}; end it in .png or .svg")
    with atomic_path(out) as aside:
        figure.savefig(aside, format=kind, dpi=150)
