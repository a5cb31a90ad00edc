"""Evaluation of a surrogate: run it over trials and score its outputs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogate import datasets
from surrogate.errors import DataError, UsageError
from surrogate.evaluation.bootstrap import Resamples, draw_weights
from surrogate.evaluation.breakdown import error_anatomy, interval_histogram, reliability
from surrogate.evaluation.choose_rule import choose_rule, threshold_sensitivity
from surrogate.evaluation.f_i import f_i_curves
from surrogate.evaluation.protocols import Outputs, run_protocol
from surrogate.evaluation.result import Evaluation
from surrogate.evaluation.roc import ideal_thresholds, logit_spread
from surrogate.evaluation.scores import SCORES
from surrogate.model.model_file import Model, load, save
from surrogate.model.prediction import BinsCallback
from surrogate.model.spike_rule import SpikeRule
from surrogate.model.zoo import BUNDLED

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["evaluate", "evaluate_outputs"]


def evaluate(
    model: Model | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    protocol: str = "stateful",
    labels: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    write_rule: bool = False,
    progress: BinsCallback | None = None,
) -> Evaluation:
    """Run a model over trials of a data set and compare its spikes and voltage with the neuron's.

    Parameters
    ----------
    model : Model or path
        A ``model.safetensors`` that training wrote, or what :func:`surrogate.load` made of it.
    data : Dataset or path, optional
        By default the bundled sample of a layer 5 pyramidal cell.
    split : "train" | "valid" | "test" | "all"
        The trials to evaluate on.
    protocol : "stateful" | "blog" | "published"
        Which windows are run and which bins count: whole trials; windows of 1000 ms, each from a
        zero state; or windows of 500 ms with burn-in, as the L5PC papers score. See
        :data:`surrogate.evaluation.protocols.PROTOCOLS`.
    labels : "exact" | "legacy", optional
        Spike times, exact or rounded as the public files give them; by default exact, for the
        published protocol legacy.
    bootstrap : int
        Resamples of the trials for the 95 % intervals; with 0, or one trial, intervals are None.
    seed : int
        Of the resampling.
    write_rule : bool
        Choose the rule that makes spikes of logits anew on these trials, and write it into the
        model's file. Refused for test trials.
    progress : callable, optional
        Called with (bins done, bins in all) after each chunk.

    Returns
    -------
    Evaluation
        A dict: each score by name (``roc_auc``, ``voltage_rmse_mv``, ``event_f1``, ...) with its
        95 % interval over trials as ``<name>_interval``, thresholds, the spike rule, and what was
        run; ``docs/evaluation.md`` lists the keys. ``print`` shows it as a table. Its ``outputs``
        holds logits, voltages (mV), spikes and emitted spikes as arrays [trials, bins].

    Raises
    ------
    UsageError
        If split or protocol do not exist, the data have other channels or bins than the model, or
        ``write_rule`` is asked for on test trials, windows, silent trials or a model without file.
    DataError
        If the files are damaged or missing, or the model's outputs are not finite.

    Examples
    --------
    >>> import surrogate
    >>> result = surrogate.evaluate("runs/lstm/model.safetensors", split="valid")  # doctest: +SKIP
    >>> result["roc_auc"], result["roc_auc_interval"]                     # doctest: +SKIP
    (0.9765, [0.9688, 0.9841])
    >>> print(result)                                                     # doctest: +SKIP
    """
    if not isinstance(model, Model):
        model = load(model)
    with contextlib.ExitStack() as stack:
        if data is None or isinstance(data, str | os.PathLike):
            data = stack.enter_context(datasets.open(data))
        model.card.check_fits(data)
        trials = data.trial_indices(split)
        if write_rule:
            _require_rule_trials(model, data, split, protocol)
        outputs = run_protocol(model.stack, data, trials, protocol, labels, progress)
        if write_rule:
            _rewrite_rule(model, data, split, outputs)
        return evaluate_outputs(model, data, split, outputs, bootstrap, seed)


def evaluate_outputs(
    model: Model,
    dataset: Dataset,
    split: str,
    outputs: Outputs,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Score what ``model`` gave on trials of ``split``; parameters and result as of
    :func:`evaluate`.

    Raises
    ------
    DataError
        If the outputs are not finite.
    """
    if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.voltage).all()):
        raise DataError(
            f"{model.path or 'model'}: its outputs on these trials are not finite; train it again "
            "with a lower learning rate"
        )
    rule, logits, spikes = model.spike_rule, outputs.logits, outputs.spikes
    if rule is not None:
        outputs = replace(outputs, emitted=rule.emit(logits))
    # Resampling one trial gives an interval of width 0, which would be misleading.
    count = bootstrap if len(logits) > 1 else 0
    resamples = Resamples(outputs, draw_weights(len(logits), count, seed))
    result: dict[str, Any] = {}
    for name, score in SCORES.items():
        result[name] = score.measure(outputs)
        result[f"{name}_interval"] = score.intervals(resamples)
    bound = 1.0 if model.stack.spec.head == "recurrent" else np.inf
    spikes_per_trial = spikes.sum(axis=1, dtype=np.int64)
    result |= {
        "thresholds": ideal_thresholds(logits, spikes) if outputs.rankable else None,
        "spread": logit_spread(logits, spikes, bound) if outputs.rankable else None,
        "spike_rule": None if rule is None else _describe(rule, outputs),
        "threshold_sensitivity": None if rule is None else threshold_sensitivity(rule, outputs),
        "error_anatomy": error_anatomy(outputs),
        "interspike_intervals": interval_histogram(outputs),
        "reliability": reliability(resamples),
        "f_i_curves": f_i_curves(dataset, outputs, resamples),
        "n_trials": len(outputs.trials),
        "n_trials_dropped": outputs.dropped,
        "n_bins": spikes.size,
        "n_spikes": int(spikes_per_trial.sum()),
        "bootstrap": {
            "resamples": count,
            "without_spikes": int((resamples.weights @ spikes_per_trial == 0).sum()),
            "seed": seed,
        },
        "note": None if outputs.rankable else "no output spike in these trials: nothing to rank",
        "parameters": model.stack.parameter_count,
        "model_file_bytes": None if model.path is None else model.path.stat().st_size,
        "state_bytes": 4 * model.stack.spec.state_size,
        "protocol": outputs.protocol,
        "labels": outputs.labels,
        "split": split,
        "data": {"name": dataset.path.name, "digest": dataset.digest},
        "seconds": outputs.seconds,
    }
    return Evaluation(result, model, outputs)


def _describe(rule: SpikeRule, outputs: Outputs) -> dict[str, Any]:
    """The rule, how often it emits a spike, and how often the neuron does."""
    assert outputs.emitted is not None
    emitted = int(outputs.emitted.sum())
    seconds = outputs.spikes.size * outputs.dt_ms / 1000
    return {
        "kind": rule.kind,
        "logit": rule.logit,
        "low_logit": rule.low_logit,
        "seed": rule.seed,
        "refractory_ms": rule.refractory_bins * outputs.dt_ms,
        "delay_ms": rule.delay_bins * outputs.dt_ms,
        "chosen_by": rule.chosen_by,
        "emitted_spikes": emitted,
        "emitted_rate_hz": emitted / seconds,
        "neuron_rate_hz": float(outputs.spikes.sum(dtype=np.int64) / seconds),
    }


def _require_rule_trials(model: Model, dataset: Dataset, split: str, protocol: str) -> None:
    if model.path is None:
        raise UsageError("the model has no file to write a spike rule into; save it first")
    if model.path.parent == BUNDLED:
        raise UsageError(
            f"{model.path.stem} comes with the package: its spike rule stays; copy {model.path} "
            "and give the copy"
        )
    holds_test = split == "test" or (split == "all" and dataset.split_sizes is not None)
    if holds_test or protocol != "stateful":
        raise UsageError(
            f"--write-rule with --split {split} --protocol {protocol}: a rule is chosen on "
            "trials kept from the test, run whole; use --split valid --protocol stateful"
        )


def _rewrite_rule(model: Model, dataset: Dataset, split: str, outputs: Outputs) -> SpikeRule:
    """Choose ``model``'s spike rule again, on ``outputs``, and write it into its file."""
    if not outputs.spikes.any():
        raise UsageError(
            f"{dataset.path}: no output spike in split {split!r}, so no rate to choose a spike "
            "rule by; choose it on other trials"
        )
    of = (
        f"{len(outputs.trials)} trials: split {split} of {dataset.path.name}, sha256 "
        f"{dataset.digest[:12]}"
    )
    rule = choose_rule(outputs.logits, outputs.spikes, outputs.dt_ms, of)
    assert model.path is not None
    save(model.path, model.stack, replace(model.card, spike_rule=rule))
    model.card.spike_rule = rule
    return rule
