"""What is run and which bins count."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from surrogate import RecurrentStack, datasets
from surrogate.channels import Channels
from surrogate.errors import UsageError
from surrogate.evaluation.evaluate import evaluate
from surrogate.evaluation.protocols import PROTOCOLS, run_protocol
from surrogate.kernels import SpikeEvents
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model
from surrogate.model.prediction import predict_dataset, predict_events

CHANNELS = Channels.of(excitatory=10, inhibitory=10)


class RandomTrials:
    """Stands in for a data set: trials long enough for the published protocol."""

    def __init__(self, n_steps: int = 1300, n_trials: int = 4) -> None:
        rng = np.random.default_rng(4)
        self.path, self.digest = Path("random.h5"), "0" * 64
        self.n_inputs, self.n_steps, self.n_trials = 20, n_steps, n_trials
        self.dt_ms, self.channels = 1.0, CHANNELS
        self.header = datasets.Header(n_steps, CHANNELS, 1.0)
        self.dense = rng.random((n_trials, n_steps, 20)) < 0.05
        self.potential = rng.normal(-65, 5, (n_trials, n_steps)).astype(np.float32)
        self.times = [np.sort(rng.choice(n_steps, 10, False)) + 0.75 for _ in range(n_trials)]
        self.times[1] = np.arange(25) * 40 + 600.75

    def bins(self, duration_ms: float) -> int:
        return round(duration_ms)

    def trial_indices(self, split: str) -> np.ndarray:
        return np.arange(self.n_trials)

    def events(self, trials, starts, steps) -> SpikeEvents:
        rows = [
            self.dense[i, start : start + steps] for i, start in zip(trials, starts, strict=True)
        ]
        return SpikeEvents.from_dense(torch.from_numpy(np.stack(rows)))

    def voltage(self, trials, starts, steps) -> np.ndarray:
        pairs = zip(trials, starts, strict=True)
        return np.stack([self.potential[i, start : start + steps] for i, start in pairs])

    def spike_times(self, trial: int, labels: str = "exact") -> np.ndarray:
        times = self.times[trial]
        return times if labels == "exact" else times.astype(np.float16).astype(np.float64)

    def spikes(self, trials, starts, steps, labels="exact") -> np.ndarray:
        spikes = np.zeros((len(trials), self.n_steps), np.uint8)
        for row, trial in zip(spikes, trials, strict=True):
            bins = (self.spike_times(trial, labels) - 0.5).astype(int)
            row[bins[bins < self.n_steps]] = 1
        return np.stack([s[start : start + steps] for s, start in zip(spikes, starts, strict=True)])


def _whole(stack: RecurrentStack, dense: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return stack(SpikeEvents.from_dense(torch.from_numpy(dense)))[0].numpy()


@pytest.mark.parametrize("chunk_bins", [1, 7, 400, 1000])
def test_predicting_in_chunks_equals_the_whole(toy_data, stack, chunk_bins) -> None:
    with datasets.open(toy_data) as data:
        trials = np.array([3, 0, 7])
        events = data.events(trials, np.zeros(3, int), 400)
        logits, voltage = predict_events(stack, events, chunk_bins=chunk_bins)
        with torch.no_grad():
            expected = stack(events)
        np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(voltage, expected[1].numpy(), atol=1e-4)
        assert logits.dtype == voltage.dtype == np.float32
        for got, want in zip(
            predict_dataset(stack, data, trials, batch=2, chunk_bins=chunk_bins),
            expected,
            strict=False,
        ):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


def test_predict_events_continues_from_a_state(toy_data, stack) -> None:
    with datasets.open(toy_data) as data:
        whole = data.events([1], [0], 300)
        with torch.no_grad():
            _, _, state = stack(whole.slice_steps(0, 120))
        logits, _ = predict_events(stack, whole.slice_steps(120, 300), state)
        np.testing.assert_allclose(logits, predict_events(stack, whole)[0][:, 120:], atol=1e-6)


def test_progress_counts_every_bin(toy_data, stack) -> None:
    seen: list[tuple[int, int]] = []
    with datasets.open(toy_data) as data:
        run_protocol(stack, data, [0, 1, 2], progress=lambda *done: seen.append(done))
    assert seen[-1] == (1200, 1200)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(seen))


def test_a_model_of_other_input_size_is_a_usage_error(toy_data) -> None:
    with datasets.open(toy_data) as data:
        with pytest.raises(UsageError, match="20 input channels, the model takes 1278"):
            predict_dataset(RecurrentStack("rnn", (2,), 1278), data, [0])
        with pytest.raises(UsageError, match=r"channels 0\.\.5"):
            predict_events(RecurrentStack("rnn", (2,), input_size=6), data.events([0], [0], 50))


def test_protocol_windows() -> None:
    long = RandomTrials(6000, 2)
    assert PROTOCOLS["stateful"].windows(long) == [(0, 0, 6000)]
    assert PROTOCOLS["blog"].windows(RandomTrials(2500, 2)) == [
        (0, 0, 1000),
        (1000, 1000, 2000),
        (2000, 2000, 2500),
    ]
    published = PROTOCOLS["published"].windows(long)
    assert published[:2] == [(350, 500, 850), (700, 850, 1200)]
    assert published[-1] == (5600, 5750, 6000)
    scored = [bin for _, first, stop in published for bin in range(first, stop)]
    assert scored == list(range(500, 6000))


def test_blog_protocol_starts_each_window_from_zero(stack) -> None:
    data = RandomTrials()
    outputs = run_protocol(stack, data, [0, 2], "blog")
    for start, stop in ((0, 1000), (1000, 1300)):
        expected = _whole(stack, data.dense[[0, 2], start:stop])
        np.testing.assert_allclose(outputs.logits[:, start:stop], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs.target, data.potential[[0, 2]])


def test_published_protocol_burns_in_and_drops_busy_trials(stack) -> None:
    data = RandomTrials()
    outputs = run_protocol(stack, data, range(4), "published")
    assert outputs.trials.tolist() == [0, 2, 3]
    assert (outputs.dropped, outputs.first_bin, outputs.labels) == (1, 500, "legacy")
    assert outputs.logits.shape == outputs.spikes.shape == (3, 800)
    expected = _whole(stack, data.dense[[0, 2, 3], 700:1200])[:, 150:]
    np.testing.assert_allclose(outputs.logits[:, 350:700], expected, atol=1e-6)
    np.testing.assert_array_equal(
        outputs.spikes, data.spikes([0, 2, 3], [500] * 3, 800, labels="legacy")
    )
    exact = run_protocol(stack, data, [0], "published", labels="exact")
    np.testing.assert_array_equal(exact.spikes, data.spikes([0], [500], 800))


def test_published_voltage_is_rescaled(stack) -> None:
    data = RandomTrials()
    model = Model(stack, ModelCard(stack.spec, CHANNELS, 1.0))
    result = evaluate(model, data, split="all", protocol="published", bootstrap=0)
    ours, theirs = (
        np.minimum(voltage.astype(float), -55)
        for voltage in (result.outputs.voltage, result.outputs.target)
    )
    rescaled = (ours - ours.mean()) / ours.std() * theirs.std() + theirs.mean()
    error = np.sqrt(np.square(rescaled - theirs).mean())
    assert result["voltage_rmse_mv"] == pytest.approx(error)
    as_predicted = np.sqrt(np.square(ours - theirs).mean())
    assert as_predicted != pytest.approx(error, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "blogg"}, "unknown protocol 'blogg'"),
        ({"protocol": "published"}, "leaves out the first 500 ms"),
    ],
)
def test_impossible_protocols_are_usage_errors(toy_data, stack, arguments, message) -> None:
    with datasets.open(toy_data) as data, pytest.raises(UsageError, match=message):
        run_protocol(stack, data, [0], **arguments)


def test_published_protocol_without_a_quiet_trial_is_a_usage_error(stack) -> None:
    with pytest.raises(UsageError, match="more than 24 spikes"):
        run_protocol(stack, RandomTrials(), [1], "published")
