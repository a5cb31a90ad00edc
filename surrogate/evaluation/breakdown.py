"""What lies behind the scores: reliability curve, distribution of intervals, where errors are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from surrogate.evaluation.anatomy import OUTCOMES, SHIFT_MS, bins_within, near
from surrogate.evaluation.bootstrap import Resamples, interval
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.protocols import Outputs
from surrogate.evaluation.spike_scores import BURST_MS
from surrogate.evaluation.spike_trains import burst_spikes, intervals

__all__ = ["error_anatomy", "interval_histogram", "reliability"]

#: Edges of the reliability curve's bins, narrow where most bins of a neuron lie.
_PROBABILITY_EDGES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

#: Time at the start of a trial in which the model's zero state shows, ms.
_ONSET_MS = 500


def reliability(resamples: Resamples) -> list[dict[str, Any]]:
    """How often the neuron spiked where the model gave a probability: one entry per range.

    Returns
    -------
    list of dict
        ``low`` and ``high`` (exclusive, but for 1), ``n_bins``, ``mean_probability``,
        ``spike_share`` and its ``spike_share_interval`` over trials; ranges without bins left out.
    """
    compared = resamples.comparison
    n, edges = len(compared.spikes), np.array(_PROBABILITY_EDGES)
    into = np.digitize(compared.probability, edges[1:-1])
    cells = (into + len(edges) * np.arange(n)[:, None]).ravel()
    bins, spikes, total = (
        np.bincount(cells, weights, n * len(edges)).reshape(n, len(edges))
        for weights in (None, compared.spikes.ravel(), compared.probability.ravel())
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (resamples.weights @ spikes) / (resamples.weights @ bins)
    return [
        {
            "low": float(edges[at]),
            "high": float(edges[at + 1]),
            "n_bins": int(bins[:, at].sum()),
            "mean_probability": float(total[:, at].sum() / bins[:, at].sum()),
            "spike_share": float(spikes[:, at].sum() / bins[:, at].sum()),
            "spike_share_interval": interval(shares[:, at]),
        }
        for at in range(len(edges) - 1)
        if bins[:, at].any()
    ]


def interval_histogram(compared: Comparison) -> dict[str, list[float] | list[int]] | None:
    """Intervals between spikes, counted by length; None without emitted spikes.

    Returns
    -------
    dict
        ``edges_ms``, each the one before times the square root of 2, and the number of intervals
        of the ``neuron`` and the ``surrogate`` between one edge and the next.
    """
    if compared.emitted is None:
        return None
    dt, steps = compared.dt_ms, compared.spikes.shape[1]
    edges = dt * 2.0 ** np.arange(0, math.ceil(math.log2(steps)) + 1.5, 0.5)
    counts = {
        name: np.histogram(intervals(train)[1] * dt, edges)[0].tolist()
        for name, train in (("neuron", compared.spikes), ("surrogate", compared.emitted))
    }
    return {"edges_ms": edges.tolist(), **counts}


def error_anatomy(outputs: Outputs) -> dict[str, Any] | None:
    """Number of spikes by outcome, and where they cluster; None without emitted spikes.

    Returns
    -------
    dict
        Counts by outcome; ``delay_ms``, mean and standard deviation of emitted minus true time;
        ``by_place``: counts of the neuron's spikes that are alone, the first of a burst, or later
        in it; ``false_beside_spikes``: false spikes within :data:`SHIFT_MS` of a spike of the
        neuron's; ``onset``: counts in the first 500 ms of a trial; ``worst_trials``: those
        with most missed and false spikes, and ``worst_tenth_share``: the share of all of them that
        a tenth of the trials holds.
    """
    anatomy, spikes, dt_ms = outputs.anatomy, outputs.spikes, outputs.dt_ms
    if anatomy is None:
        return None
    _, follows, leads = burst_spikes(spikes, bins_within(BURST_MS, dt_ms))
    places = {
        "alone": ~follows & ~leads,
        "burst_first": ~follows & leads,
        "burst_later": follows,
    }
    # Of each spike of the neuron's, in the order of burst_spikes.
    outcome_of = {name: anatomy.trains[name][spikes > 0] for name in OUTCOMES[:3]}
    onset = max(bins_within(_ONSET_MS, dt_ms) - outputs.first_bin, 0)
    reach = bins_within(SHIFT_MS, dt_ms)
    missed, false = anatomy.counts("missed"), anatomy.counts("false")
    worst = np.argsort(-(missed + false), kind="stable")
    tenth = worst[: math.ceil(len(worst) / 10)]
    errors = int((missed + false).sum())
    delays = anatomy.delays * dt_ms
    return {
        **{name: int(anatomy.counts(name).sum()) for name in OUTCOMES},
        "delay_ms": {"mean": float(delays.mean()), "sd": float(delays.std())}
        if len(delays)
        else None,
        "by_place": {
            place: {name: int((there & hit).sum()) for name, hit in outcome_of.items()}
            for place, there in places.items()
        },
        "false_beside_spikes": int((anatomy.trains["false"] & near(spikes, reach)).sum()),
        "onset": {name: int(train[:, :onset].sum()) for name, train in anatomy.trains.items()},
        "worst_trials": [
            {
                "trial": int(outputs.trials[row]),
                "missed": int(missed[row]),
                "false": int(false[row]),
            }
            for row in worst[:5]
            if missed[row] + false[row]
        ],
        "worst_tenth_share": float((missed + false)[tenth].sum() / errors) if errors else None,
    }
