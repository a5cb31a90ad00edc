"""A figure of one trial: input spikes, soma voltage, output spikes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surrogate.datasets.reader import Dataset
from surrogate.errors import UsageError
from surrogate.plots.style import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_trial"]

_GROUPS = ("#c1440e", "#2b5c8a", "#8a6d1f", "#6a3d8f", "#2f7f7b")
_VOLTAGES = ("#222222", "#b0518f", "#5f8f2b")
_SPIKE = "#0a7d4f"
_RATE_WINDOW_MS = 20


@figure_style()
def plot_trial(
    data: Dataset, trial: int, start_ms: float = 0, stop_ms: float | None = None
) -> Figure:
    """Input raster, input rates, voltages and output spikes of a stretch of a trial.

    Parameters
    ----------
    data : Dataset
        An open data file.
    trial : int
        Number of the trial.
    start_ms, stop_ms : float
        The stretch; by default the whole trial.

    Raises
    ------
    UsageError
        If there is no such trial or stretch of it.
    """
    dt, duration = data.dt_ms, data.header.duration_ms
    stop_ms = duration if stop_ms is None else stop_ms
    if not 0 <= trial < len(data):
        raise UsageError(f"no trial {trial} in {data.path}; expected 0..{len(data) - 1}")
    from matplotlib.figure import Figure

    start, stop = data.bins(start_ms), data.bins(stop_ms)
    if not 0 <= start < stop <= data.n_steps:
        raise UsageError(
            f"no stretch {start_ms:g}..{stop_ms:g} ms; expected 0 <= start < stop <= {duration:g}"
        )
    shown = data[trial]
    rows = np.repeat(np.arange(data.n_steps), np.diff(shown.row_ptr))
    inside = (rows >= start) & (rows < stop)
    bins, channel = rows[inside], shown.channel[inside]
    time = np.arange(start, stop) * dt

    figure = Figure(figsize=(10, 7), layout="constrained")
    raster, rate, voltage = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1.3, 2))
    for index, (group, of) in enumerate(data.channels.slices.items()):
        mask = (channel >= of.start) & (channel < of.stop)
        size, color = of.stop - of.start, _GROUPS[index % len(_GROUPS)]
        # Tens of thousands of dots would make a vector graphic unusable.
        raster.plot(bins[mask] * dt, channel[mask], ",", color=color, rasterized=True)
        mean = mask.sum() / size / ((stop - start) * dt) * 1e3
        rate.plot(
            time,
            _rate_hz(bins[mask] - start, stop - start, size, dt),
            color=color,
            linewidth=0.8,
            label=f"{group} ({mean:.1f} Hz per synapse)",
        )
    raster.set(ylabel="input channel", ylim=(0, data.n_inputs))
    # Room for the legend above the curves.
    rate.set(ylabel="input rate (Hz)", ylim=(0, 1.4 * rate.get_ylim()[1]))
    rate.legend(loc="upper right", fontsize="small", ncols=2, frameon=False)
    for index, (name, values) in enumerate(shown.voltage_mV.items()):
        color = _VOLTAGES[index % len(_VOLTAGES)]
        voltage.plot(time, values[start:stop], color=color, linewidth=0.8, label=name)
    if len(shown.voltage_mV) > 1:
        voltage.legend(loc="upper right", fontsize="small", frameon=False)
    spikes = shown.spike_time_ms
    spikes = spikes[(spikes >= start_ms) & (spikes < stop_ms)]
    voltage.plot(spikes, np.full(spikes.size, 30.0), "|", color=_SPIKE, markersize=12)
    voltage.set(ylabel="voltage (mV)", xlabel="time (ms)", xlim=(start_ms, stop_ms))
    seed, index = shown.source
    figure.suptitle(
        f"trial {trial} (run {seed}, number {index}): {channel.size:,} input events, "
        f"{spikes.size} output spikes"
    )
    return figure


def _rate_hz(bins: np.ndarray, steps: int, n_synapses: int, dt_ms: float) -> np.ndarray:
    """Rate per synapse in Hz, over a sliding window of 20 ms."""
    counts = np.bincount(bins, minlength=steps)
    width = min(max(1, round(_RATE_WINDOW_MS / dt_ms)), steps)
    window = np.ones(width)
    covered = np.convolve(np.ones(steps), window, "same") * dt_ms
    return np.convolve(counts, window, "same") / covered / n_synapses * 1e3
