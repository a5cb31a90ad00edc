"""The choice of a spike rule: of all kinds, each at the neuron's rate, the one with the best F1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.scores import SCORES
from surrogate.model.spike_rule import KINDS, SpikeRule, match_output_rate

__all__ = ["choose_rule", "threshold_sensitivity"]

#: Gaps between the two levels of hysteresis that are tried, in units of the logit.
_GAPS = (0.25, 0.5, 1.0)

#: A rule that misses the neuron's number of spikes by more is not chosen.
_RATE_TOLERANCE = 0.05

#: Factors of the odds p / (1 - p) of a level.
_FACTORS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)


def choose_rule(
    logits: NDArray[np.floating], spikes: NDArray[np.integer], dt_ms: float, of: str
) -> SpikeRule:
    """The rule with the highest ``event_f1_mean`` among those that emit as many spikes as true.

    Parameters
    ----------
    logits : array [N, T]
        Of the trials to choose on: validation trials, run statefully.
    spikes : array [N, T] of 0 and 1
        The neuron's own spikes in the same bins.
    dt_ms : float
        Length of a bin.
    of : str
        Which trials, for readers of the card; ``chosen_by`` of the rule names them and the best F1
        of each kind.

    Raises
    ------
    ValueError
        If the neuron never spiked, so that no rate can be matched.
    """
    rules = [
        match_output_rate(logits, spikes, dt_ms, "", kind=kind, gap=gap)
        for kind in KINDS
        for gap in (_GAPS if kind == "hysteresis" else (None,))
    ]
    best: dict[str, tuple[float, SpikeRule]] = {}
    for rule in rules:
        emitted = rule.emit(logits)
        off = abs(emitted.sum() / spikes.sum(dtype=np.int64) - 1)
        # A level is always there to fall back on.
        if rule.kind == "level" or off <= _RATE_TOLERANCE:
            f1 = _mean_f1(emitted, spikes, dt_ms)
            if rule.kind not in best or f1 > best[rule.kind][0]:
                best[rule.kind] = f1, rule
    _, chosen = max(best.values(), key=lambda found: found[0])
    scores = ", ".join(f"{kind} {f1:.3f}" for kind, (f1, _) in best.items())
    return replace(
        chosen, chosen_by=f"spike F1, mean within 0 to 5 ms, at the output rate of {of}: {scores}"
    )


def _mean_f1(emitted: NDArray[np.bool_], spikes: NDArray[np.integer], dt_ms: float) -> float:
    nothing = np.zeros_like(spikes)  # the score looks at spikes alone
    compared = Comparison(nothing, nothing, spikes, nothing, emitted, dt_ms)
    value = SCORES["event_f1_mean"].measure(compared)
    assert isinstance(value, float)
    return value


def threshold_sensitivity(rule: SpikeRule, compared: Comparison) -> list[dict[str, Any]]:
    """What the rule would emit with other levels.

    Returns
    -------
    list of dict
        ``factor``, by which the odds p / (1 - p) of the level are multiplied (and those of the
        lower level of hysteresis), the ``logit`` that gives, ``emitted_spikes``, ``rate_ratio``,
        ``event_f1`` within 2 ms and ``event_f1_mean``.
    """
    found = []
    for factor in _FACTORS:
        shifted = rule.shifted(float(np.log(factor)))
        emitted = shifted.emit(compared.logits)
        other = replace(compared, emitted=emitted)
        found.append(
            {
                "factor": factor,
                "logit": shifted.logit,
                "emitted_spikes": int(emitted.sum()),
                "rate_ratio": SCORES["rate_ratio"].measure(other),
                "event_f1": SCORES["event_f1"].function(other, 2),
                "event_f1_mean": SCORES["event_f1_mean"].measure(other),
            }
        )
    return found
