"""Judging a surrogate: run it over trials and score what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError, UsageError
from surrogate.evaluation import bootstrap as resampling
from surrogate.evaluation.protocols import PROTOCOLS, Outputs, run_protocol
from surrogate.evaluation.scores import (
    FALSE_POSITIVE_RATES,
    coincidences,
    ideal_thresholds,
    logit_gap,
    logit_spread,
    spike_scores,
    voltage_scores,
)
from surrogate.model.model_file import Model, save
from surrogate.model.prediction import Progress
from surrogate.model.spike_rule import SpikeRule, match_output_rate
from surrogate.training.windows import Batch

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = [
    "COINCIDENCE_WINDOWS_MS",
    "REFRACTORY_MS",
    "choose_rule",
    "evaluate",
    "judge",
    "rewrite_rule",
]

#: Refractory period of the L5 pyramidal cell, ms: the shortest interval between the 870 spikes of
#: 104 training trials was 6.125 ms.
REFRACTORY_MS = 6

#: How far apart an emitted and a true spike may be to count as the same, ms.
COINCIDENCE_WINDOWS_MS = (0, 1, 2, 5)


def choose_rule(
    logits: NDArray[np.floating],
    spikes: NDArray[np.integer],
    refractory_ms: int | None = None,
    chosen_by: str = "output rate of the validation trials, refractoriness included",
) -> SpikeRule:
    """The rule that emits as many spikes as the neuron did, refractoriness included.

    Parameters
    ----------
    logits : array [N, T]
        Of the trials to choose on: validation trials, run statefully.
    spikes : array [N, T] of 0 and 1
    refractory_ms : int, optional
        By default :data:`REFRACTORY_MS`, or less if the neuron itself spiked at a shorter interval.
    chosen_by : str
        Recorded in the rule.

    Returns
    -------
    SpikeRule

    Raises
    ------
    ValueError
        If the neuron never spiked: there is no rate to match.
    """
    if refractory_ms is None:
        trial, bins = np.nonzero(spikes)
        intervals = np.diff(bins)[np.diff(trial) == 0]
        refractory_ms = int(intervals.min(initial=REFRACTORY_MS))
    return match_output_rate(logits, spikes, refractory_ms, chosen_by)


def judge(
    logits: NDArray[np.float32], voltage: NDArray[np.float32], batch: Batch, burn_in_ms: int
) -> dict[str, Any]:
    """The scores that training follows, of outputs on a batch of windows.

    Parameters
    ----------
    logits, voltage : float32 [B, T]
        What a stack gave on ``batch`` from a zero state; voltage in mV.
    batch : Batch
    burn_in_ms : int
        Bins at each window's start that do not count.

    Returns
    -------
    dict
        ``roc_auc``, ``average_precision``, ``nll`` (nats per bin), ``voltage_rmse_mv``, and
        ``spread``, which is :func:`surrogate.evaluation.scores.logit_gap`. A score that does not
        exist, for want of spikes or because outputs are not finite, is None.
    """
    names = ("roc_auc", "average_precision", "nll", "voltage_rmse_mv")
    logits, voltage = logits[:, burn_in_ms:], voltage[:, burn_in_ms:]
    if not (np.isfinite(logits).all() and np.isfinite(voltage).all()):
        return dict.fromkeys((*names, "spread"))
    spikes = batch.spikes[:, burn_in_ms:].numpy().astype(np.uint8)
    scores = spike_scores(logits, spikes)
    scores |= voltage_scores(voltage, batch.voltage[:, burn_in_ms:].numpy())
    spread = None
    if scores["roc_auc"] is not None:
        spread = logit_gap(logits, spikes)
    return {name: scores[name] for name in names} | {"spread": spread}


def evaluate(
    model: Model,
    dataset: Dataset,
    split: str = "test",
    protocol: str = "stateful",
    labels: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    outputs: Outputs | None = None,
) -> dict[str, Any]:
    """Run ``model`` over the trials of ``split`` and score it.

    Parameters
    ----------
    model : Model
    dataset : Dataset
    split : "train" | "valid" | "test" | "all"
    protocol : "stateful" | "blog" | "published"
        See :data:`surrogate.evaluation.protocols.PROTOCOLS`.
    labels : "exact" | "legacy", optional
        Spike times; by default exact, for the published protocol legacy.
    bootstrap : int
        Resamples of the trials for the 95 % intervals; with 0, or one trial, these are None.
    seed : int
        Of the resampling.
    progress : callable, optional
        Called with (bins done, bins in all).
    outputs : Outputs, optional
        What :func:`~surrogate.evaluation.protocols.run_protocol` gave for the same arguments, to be
        scored without another run.

    Returns
    -------
    dict
        What ``surrogate evaluate --json`` prints; ``docs/evaluation.md`` lists the keys.

    Raises
    ------
    UsageError
        If split or protocol do not exist, or the data are not of the model's input size.
    DataError
        If the data are damaged or the model's outputs are not finite.
    """
    if outputs is None:
        trials = dataset.trial_indices(split)
        outputs = run_protocol(model.stack, dataset, trials, protocol, labels, progress)
    if not _finite(outputs):
        raise DataError(
            f"{model.path or 'model'}: its outputs on these trials are not finite; train it again "
            "with a lower learning rate"
        )
    return {
        **_scores(model, outputs, bootstrap, seed),
        "parameters": model.stack.parameter_count,
        "model_file_bytes": None if model.path is None else model.path.stat().st_size,
        "state_bytes": 4 * model.stack.spec.state_size,
        "protocol": outputs.protocol,
        "labels": outputs.labels,
        "split": split,
        "data": {"name": dataset.path.name, "digest": dataset.digest},
        "seconds": outputs.seconds,
    }


def rewrite_rule(model: Model, dataset: Dataset, split: str, outputs: Outputs) -> SpikeRule:
    """Choose ``model``'s spike rule anew, on ``outputs``, and write it into its file.

    Raises
    ------
    UsageError
        If the trials hold no spike whose rate could be matched.
    DataError
        If the file cannot be written.
    """
    if not outputs.spikes.any():
        raise UsageError(
            f"{dataset.path}: no output spike in split {split!r}, so no rate to choose a spike "
            "rule by; choose it on other trials"
        )
    chosen_by = (
        f"output rate, refractoriness included, of {len(outputs.trials)} trials: split {split} of "
        f"{dataset.path.name}, sha256 {dataset.digest[:12]}"
    )
    rule = choose_rule(outputs.logits, outputs.spikes, chosen_by=chosen_by)
    assert model.path is not None
    save(model.path, model.stack, replace(model.card, spike_rule=rule.to_dict()))
    model.card.spike_rule = rule.to_dict()
    return rule


def _scores(model: Model, outputs: Outputs, bootstrap: int, seed: int) -> dict[str, Any]:
    """The part of :func:`evaluate` that follows from outputs."""
    logits, spikes = outputs.logits, outputs.spikes
    rescale = PROTOCOLS[outputs.protocol].rescale_voltage
    points = spike_scores(logits, spikes)
    points |= voltage_scores(outputs.voltage, outputs.target, rescale)
    # One trial resampled is itself: an interval of no width would claim certainty.
    resamples = bootstrap if len(logits) > 1 else 0
    weights = resampling.draw_weights(len(logits), resamples, seed)
    ranges: dict[str, Any] = {}
    if resamples:
        ranges = resampling.intervals(
            resampling.resampled_scores(
                weights, logits, spikes, outputs.voltage, outputs.target, rescale
            )
        )
    by_fpr = {str(fpr): ranges.get(f"tpr_at_fpr {fpr}") for fpr in FALSE_POSITIVE_RATES}
    ranges["tpr_at_fpr"] = by_fpr if any(by_fpr.values()) else None
    report: dict[str, Any] = {}
    for name, value in points.items():
        report |= {name: value, f"{name}_interval": ranges.get(name)}
    has_both = report["roc_auc"] is not None
    bound = 1.0 if model.stack.spec.head == "recurrent" else np.inf
    spikes_per_trial = spikes.sum(axis=1, dtype=np.int64)
    return report | {
        "thresholds": ideal_thresholds(logits, spikes) if has_both else None,
        "spread": logit_spread(logits, spikes, bound) if has_both else None,
        "spike_rule": _emission(model.spike_rule, outputs, weights),
        "n_trials": len(outputs.trials),
        "n_trials_dropped": outputs.dropped,
        "n_bins": spikes.size,
        "n_spikes": int(spikes_per_trial.sum()),
        "bootstrap": {
            "resamples": resamples,
            "without_spikes": int((weights @ spikes_per_trial == 0).sum()),
            "seed": seed,
        },
        "note": None if has_both else "no output spike in these trials: nothing to rank",
    }


def _finite(outputs: Outputs) -> bool:
    return bool(np.isfinite(outputs.logits).all() and np.isfinite(outputs.voltage).all())


def _emission(
    rule: SpikeRule | None, outputs: Outputs, weights: NDArray[np.float64]
) -> dict[str, Any] | None:
    """The spikes that the model's rule emits, beside the neuron's."""
    if rule is None:
        return None
    emitted = rule.emit(outputs.logits)
    ours, theirs = (x.sum(axis=1, dtype=np.int64) for x in (emitted, outputs.spikes))
    seconds = outputs.spikes.size / 1000
    return rule.to_dict() | {
        "emitted_spikes": int(ours.sum()),
        "emitted_rate_hz": float(ours.sum() / seconds),
        "neuron_rate_hz": float(theirs.sum() / seconds),
        "coincidence": {
            str(window): _agreement(
                coincidences(emitted, outputs.spikes, window), ours, theirs, weights
            )
            for window in COINCIDENCE_WINDOWS_MS
        },
    }


def _agreement(
    pairs: NDArray[np.int64],
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    """Precision, recall and F1 from counts per trial [N]; None where nothing is divided by."""

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    with np.errstate(invalid="ignore"):
        f1 = 2 * (weights @ pairs) / (weights @ (ours + theirs))
    return {
        "precision": ratio(int(pairs.sum()), int(ours.sum())),
        "recall": ratio(int(pairs.sum()), int(theirs.sum())),
        "f1": ratio(2 * int(pairs.sum()), int(ours.sum() + theirs.sum())),
        "f1_interval": resampling.intervals({"f1": f1})["f1"] if len(f1) else None,
    }
