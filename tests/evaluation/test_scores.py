"""Every score against scikit-learn or by hand, and the bootstrap against repeated trials."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from surrogate.cli.main import cli
from surrogate.evaluation import bootstrap
from surrogate.evaluation.bootstrap import Resamples, draw_weights, interval
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.roc import ideal_thresholds, logit_spread, roc_of, sigmoid
from surrogate.evaluation.score import Score
from surrogate.evaluation.scores import SCORES, bin_nll, clipped_voltages

# Four silent bins and three spikes: ranks 6 5 5 4 3 2 1 with one tie across the classes.
LOGITS = np.array([[6.0, 5.0, 4.0, 1.0], [5.0, 3.0, 2.0, 0.0]], np.float32)
SPIKES = np.array([[1, 1, 0, 0], [0, 1, 0, 0]], np.uint8)


def _noisy(seed: int, trials: int = 6, steps: int = 300, decimals: int = 1):
    """Logits with many ties, a silent trial, and voltages."""
    rng = np.random.default_rng(seed)
    spikes = (rng.random((trials, steps)) < 0.03).astype(np.uint8)
    spikes[0] = 0
    logits = np.round(rng.normal(size=spikes.shape) + 2 * spikes, decimals).astype(np.float32)
    target = rng.normal(-60, 8, spikes.shape).astype(np.float32)
    voltage = target + rng.normal(0.3, 2, spikes.shape).astype(np.float32)
    return logits, spikes, voltage, target


def _compared(seed: int) -> Comparison:
    """:func:`_noisy`, with spikes emitted near the neuron's and elsewhere."""
    logits, spikes, voltage, target = _noisy(seed)
    return Comparison(logits, voltage, spikes, target, emitted=logits > 2)


def _spike_scores(logits: np.ndarray, spikes: np.ndarray) -> dict[str, object]:
    compared = Comparison(logits, 0.0 * logits, spikes, 0.0 * logits)
    names = ("roc_auc", "average_precision", "tpr_at_fpr", "nll")
    return {name: SCORES[name].measure(compared) for name in names}


def _voltage_scores(voltage: np.ndarray, target: np.ndarray) -> dict[str, object]:
    compared = Comparison(voltage, voltage, np.zeros(target.shape, np.uint8), target)
    return {name: SCORES[name].measure(compared) for name in SCORES if name.startswith("voltage")}


def test_spike_scores_by_hand() -> None:
    # Pairs won by the spikes 6, 5, 3 against the silent 5, 4, 2, 1, 0: 5 + 4.5 + 3 of 15.
    scores = _spike_scores(LOGITS, SPIKES)
    assert scores["roc_auc"] == pytest.approx(12.5 / 15)
    assert scores["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert scores["tpr_at_fpr"] == {"0.0025": pytest.approx(1 / 3), "0.01": pytest.approx(1 / 3)}


def test_auc_of_gaussian_logits_is_the_known_integral() -> None:
    # Two unit normals d apart: AUC = Phi(d / sqrt 2), here Phi(1).
    rng = np.random.default_rng(0)
    spikes = np.zeros((20, 5000), np.uint8)
    spikes[:, ::2] = 1
    logits = rng.normal(size=spikes.shape) + np.sqrt(2) * spikes
    assert _spike_scores(logits, spikes)["roc_auc"] == pytest.approx(0.841345, abs=0.004)


@pytest.mark.parametrize("seed", range(3))
def test_spike_scores_equal_scikit_learn(seed) -> None:
    logits, spikes, _, _ = _noisy(seed)
    scores = _spike_scores(logits, spikes)
    assert scores["roc_auc"] == roc_auc_score(spikes.ravel(), logits.ravel())
    assert scores["average_precision"] == average_precision_score(spikes.ravel(), logits.ravel())
    assert scores["nll"] == pytest.approx(
        log_loss(spikes.ravel(), sigmoid(logits.astype(np.float64)).ravel())
    )


def test_nll_equals_torch_and_stays_finite_at_extreme_logits() -> None:
    logits = np.array([[-500.0, -3.0, 0.0, 20.0, 500.0]])
    spikes = np.array([[1, 0, 1, 1, 0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(spikes, dtype=torch.float64), reduction="none"
    )
    np.testing.assert_allclose(bin_nll(logits, spikes), expected.numpy(), rtol=1e-12)


def test_ranking_keeps_logits_apart_that_float32_sigmoids_merge() -> None:
    logits = np.array([[30.0, 29.0, 28.0, 27.0]], np.float32)
    spikes = np.array([[1, 1, 0, 0]], np.uint8)
    assert len(np.unique(torch.sigmoid(torch.from_numpy(logits)))) == 1
    assert _spike_scores(logits, spikes)["roc_auc"] == 1.0


@pytest.mark.parametrize("value", [0, 1])
def test_without_both_classes_there_is_nothing_to_rank(value) -> None:
    scores = _spike_scores(LOGITS, np.full_like(SPIKES, value))
    assert scores["roc_auc"] is scores["average_precision"] is scores["tpr_at_fpr"] is None
    assert np.isfinite(scores["nll"])


def test_roc_has_a_point_for_each_distinct_logit() -> None:
    roc = roc_of(LOGITS, SPIKES)
    np.testing.assert_array_equal(roc.logit, [6, 5, 4, 3, 2, 1, 0])
    np.testing.assert_allclose(roc.tpr, np.array([1, 2, 2, 3, 3, 3, 3]) / 3)
    np.testing.assert_allclose(roc.fpr, np.array([0, 1, 2, 2, 3, 4, 5]) / 5)
    assert roc.tpr_at(0.19) == pytest.approx(1 / 3)
    assert roc.tpr_at(0.2) == pytest.approx(2 / 3)


def test_ideal_thresholds_by_hand() -> None:
    # Youden's J at 6..0: .33 .47 .27 .60 .40 .20 0; three bins lie at or above 5.
    thresholds = ideal_thresholds(LOGITS, SPIKES)
    assert thresholds["youden"]["logit"] == 3.0
    assert thresholds["gmean"]["logit"] == 3.0
    assert thresholds["rate"] == {
        "logit": 5.0,
        "probability": pytest.approx(1 / (1 + np.exp(-5))),
        "tpr": pytest.approx(2 / 3),
        "fpr": pytest.approx(1 / 5),
    }


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decimals=st.integers(0, 3))
def test_ideal_thresholds_are_the_best_of_all_levels(seed, decimals) -> None:
    logits, spikes, _, _ = _noisy(seed, trials=3, steps=120, decimals=decimals)
    if not spikes.any():
        return
    levels = np.unique(logits).astype(np.float64)
    tpr = np.array([(logits[spikes == 1] >= level).mean() for level in levels])
    fpr = np.array([(logits[spikes == 0] >= level).mean() for level in levels])
    off = np.array([abs(int((logits >= level).sum()) - int(spikes.sum())) for level in levels])
    chosen = ideal_thresholds(logits, spikes)
    assert chosen["youden"]["tpr"] - chosen["youden"]["fpr"] == pytest.approx((tpr - fpr).max())
    gmean = chosen["gmean"]["tpr"] * (1 - chosen["gmean"]["fpr"])
    assert gmean == pytest.approx((tpr * (1 - fpr)).max())
    assert off[levels == chosen["rate"]["logit"]] == off.min()


def test_spread_of_well_spread_logits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.permutation(np.linspace(-5, 5, 10_000)).astype(np.float32).reshape(10, 1000)
    spikes = np.zeros((10, 1000), np.uint8)
    spikes.flat[np.argsort(logits.ravel())[-40:]] = 1
    spread = logit_spread(logits, spikes)
    assert spread["saturated_share"] == 0
    assert spread["distinct_above_threshold"] == 40
    # FPR 0.25 % and 5 % of a uniform density of 1000 silent bins per unit.
    assert spread["logit_gap"] == pytest.approx(0.0475 * 9960 / 1000, abs=0.002)


def test_spread_of_pinned_outputs() -> None:
    spikes = np.array([[1, 1, 0, 0, 0, 0, 0, 0]], np.uint8)
    pinned = np.array([[1, 1, 1, 1, 1, -1, -1, 0.5]], np.float32)
    spread = logit_spread(pinned, spikes, logit_bound=1.0)
    assert spread["saturated_share"] == 7 / 8
    assert spread["distinct_above_threshold"] == 1
    assert spread["logit_gap"] == 0
    assert logit_spread(pinned, spikes)["saturated_share"] == 0  # sigmoid(1) is far from 1


def test_saturation_is_where_torch_float32_sigmoid_ends() -> None:
    logits = np.linspace(-110, 40, 3001, dtype=np.float32)[None]
    spikes = (logits > 35).astype(np.uint8)
    probability = torch.sigmoid(torch.from_numpy(logits)).numpy()
    expected = ((probability == 0) | (probability == 1)).mean()
    # torch's vectorised exp and numpy's may part in the last digit: one bin of the grid.
    assert logit_spread(logits, spikes)["saturated_share"] == pytest.approx(expected, abs=2 / 3001)


def test_voltage_scores_clip_prediction_and_target() -> None:
    target = np.array([[-70.0, -60.0, 20.0, -60.0]])
    predicted = np.array([[-69.0, -62.0, -40.0, -60.0]])
    scores = _voltage_scores(predicted, target)
    assert scores["voltage_rmse_mv"] == pytest.approx(np.sqrt((1 + 4) / 4))
    assert scores["voltage_rmse_unclipped_mv"] == pytest.approx(np.sqrt((1 + 4 + 3600) / 4))
    error, clipped = np.array([-1.0, 2, 0, 0]), np.array([-70.0, -60, -55, -60])
    assert scores["voltage_explained_variance"] == pytest.approx(1 - error.var() / clipped.var())


def test_explained_variance_ignores_an_offset_and_needs_variance() -> None:
    target = np.linspace(-80, -60, 50).reshape(2, 25)
    assert _voltage_scores(target - 3, target)["voltage_explained_variance"] == pytest.approx(1)
    flat = np.full((2, 25), -70.0)
    assert _voltage_scores(target, flat)["voltage_explained_variance"] is None


def test_rescaled_voltage_has_the_targets_mean_and_deviation() -> None:
    _, spikes, voltage, target = _noisy(4)
    rescaled = Comparison(voltage, 0.5 * voltage - 45, spikes, target, rescale_voltage=True)
    for limit in (-55.0, np.inf):
        ours, theirs = clipped_voltages(rescaled, limit)
        assert ours.mean() == pytest.approx(theirs.mean())
        assert ours.std() == pytest.approx(theirs.std())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_bootstrap_equals_the_score_of_repeated_trials(score: Score, seed: int) -> None:
    compared = _compared(seed)
    weights = draw_weights(len(compared.spikes), 25, seed)
    assert (weights.sum(axis=1) == len(compared.spikes)).all()
    assert score.resampled is not None
    by_repetition = dataclasses.replace(score, resampled=None)
    for at in [(value,) for value in score.at] or [()]:
        at_once, one_by_one = (
            each.resample(Resamples(compared, weights), *at) for each in (score, by_repetition)
        )
        np.testing.assert_allclose(at_once, one_by_one, rtol=1e-9)


def test_bootstrap_in_blocks_equals_bootstrap_at_once(monkeypatch) -> None:
    compared = _compared(7)
    weights = draw_weights(len(compared.spikes), 40, 0)
    whole = Resamples(compared, weights).ranking
    monkeypatch.setattr(bootstrap, "_TABLE", 1)
    for name, values in Resamples(compared, weights).ranking.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_a_resample_without_spikes_is_dropped_from_spike_scores_only() -> None:
    weights = np.array([[6, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], float)
    resamples = Resamples(_compared(2), weights)
    auc = SCORES["roc_auc"].resample(resamples)
    assert np.isnan(auc[0])
    for name in ("nll", "voltage_rmse_mv"):
        assert np.isfinite(SCORES[name].resample(resamples)).all()
    assert SCORES["roc_auc"].intervals(resamples) == [auc[1]] * 2
    assert interval(np.array([np.nan])) is None


def test_without_resamples_there_are_no_intervals() -> None:
    resamples = Resamples(_compared(2), draw_weights(6, 0, 0))
    assert {score.intervals(resamples) for score in SCORES.values()} == {None}


def test_intervals_cover_the_middle_95_percent() -> None:
    assert interval(np.arange(1001.0)) == [25.0, 975.0]


def test_a_thousand_resamples_of_a_test_set_take_seconds() -> None:
    logits, spikes, voltage, target = _noisy(0, trials=32, steps=6000, decimals=6)
    compared = Comparison(logits, voltage, spikes, target, emitted=logits > 3)
    start = time.process_time()
    resamples = Resamples(compared, draw_weights(32, 1000, 0))
    for score in SCORES.values():
        score.intervals(resamples)
    assert time.process_time() - start < 10


def test_every_score_is_explained() -> None:
    document = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    shown = CliRunner().invoke(cli, ["evaluate", "--help"]).output
    for name in SCORES:
        assert f"`{name}`" in document
        assert re.search(rf"\b{name}\b", shown), name
