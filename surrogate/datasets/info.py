"""What is in a data file, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogate.datasets.reader import Dataset

__all__ = ["summary"]


def summary(data: Dataset) -> dict[str, Any]:
    """Sizes, rates and origin of ``data``, read from its tables and never from its events.

    Returns
    -------
    dict
        path, bytes, digest, n_trials, n_steps, dt_ms, duration_ms, n_inputs, groups (a list of
        name, kind, sign, size, placed), segment_columns, voltages, amplitudes, weights,
        rounded_times, split_sizes, input_events, input_events_per_ms, output_spikes,
        output_rate_hz, silent_trials, silenced_synapses, silenced_synapses_per_trial,
        inexact_trials, provenance.
    """
    header = data.header
    n_trials, milliseconds = len(data), len(data) * header.duration_ms
    spikes = data.output_spike_counts
    silenced = int(data.silenced_counts.sum())
    return {
        "path": str(data.path),
        "bytes": data.path.stat().st_size,
        "digest": data.digest,
        "n_trials": n_trials,
        "n_steps": data.n_steps,
        "dt_ms": data.dt_ms,
        "duration_ms": header.duration_ms,
        "n_inputs": data.n_inputs,
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "sign": group.sign,
                "size": group.size,
                "placed": group.segments is not None,
            }
            for group in data.channels.groups
        ],
        "segment_columns": list(data.segments),
        "voltages": list(header.voltages),
        "amplitudes": header.amplitudes,
        "weights": header.weights,
        "rounded_times": header.rounded_times,
        "split_sizes": data.split_sizes,
        "input_events": data.n_events,
        "input_events_per_ms": data.n_events / milliseconds,
        "output_spikes": int(spikes.sum()),
        "output_rate_hz": float(spikes.sum() / milliseconds * 1e3),
        "silent_trials": int((spikes == 0).sum()),
        "silenced_synapses": silenced,
        "silenced_synapses_per_trial": silenced / n_trials,
        "inexact_trials": np.flatnonzero(~data.exact_times).tolist(),
        "provenance": data.provenance,
    }
