"""Which windows a run takes, and what jitter does to their input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from surrogate import datasets
from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import UsageError
from surrogate.kernels import SpikeEvents
from surrogate.training.recipe import load_recipe
from surrogate.training.windows import jitter_events, plan_run, plan_windows, read_batch

TRIALS = np.array([3, 5, 8, 9])


def test_blog_windows_take_every_trial_once() -> None:
    plan = plan_windows("one_per_trial", TRIALS, 6000, 1000, 4, seed=0, reuse=False)
    assert sorted(plan.trial) == list(TRIALS)
    assert plan.start.min() >= 0
    assert plan.start.max() <= 5000
    assert not plan.reused


def test_distinct_windows_never_come_twice() -> None:
    plan = plan_windows("distinct", TRIALS, 60, 50, 44, seed=0, reuse=False)
    assert len(set(zip(plan.trial, plan.start, strict=True))) == 44
    assert set(plan.start) == set(range(11))


@pytest.mark.parametrize(("rule", "available"), [("one_per_trial", 4), ("distinct", 44)])
def test_windows_that_run_out_are_an_error_before_the_run(rule, available) -> None:
    with pytest.raises(
        UsageError, match=f"takes {available + 1} windows, the data hold {available}"
    ):
        plan_windows(rule, TRIALS, 60, 50, available + 1, seed=0, reuse=False)


@pytest.mark.parametrize(("rule", "available"), [("one_per_trial", 4), ("distinct", 44)])
def test_reused_windows_come_again_only_when_all_have_come(rule, available) -> None:
    plan = plan_windows(rule, TRIALS, 60, 50, 3 * available, seed=0, reuse=True)
    assert plan.reused
    for first in range(0, 3 * available, available):
        trials = plan.trial[first : first + available]
        counts = np.unique(trials, return_counts=True)[1]
        assert (counts == available // len(TRIALS)).all()


def test_windows_follow_the_seed_alone() -> None:
    arguments = ("distinct", TRIALS, 600, 50, 30)
    one, two = (plan_windows(*arguments, seed=4, reuse=False) for _ in range(2))
    other = plan_windows(*arguments, seed=5, reuse=False)
    assert np.array_equal(one.start, two.start)
    assert np.array_equal(one.trial, two.trial)
    assert not np.array_equal(one.start, other.start)


def test_windows_that_do_not_fit_trials_or_bins_are_refused(tmp_path) -> None:
    header = datasets.Header(40, datasets.Channels.of(excitatory=2), dt_ms=10.0)
    voltage = {"soma": np.zeros(40)}
    trial = datasets.Trial.from_spikes(
        header, [0], [5], spike_time_ms=[], voltage_mV=voltage, split="train"
    )
    datasets.write(tmp_path / "coarse.h5", header, [trial])
    recipe = load_recipe("tuned", "rnn", {"window_ms": 401, "burn_in_ms": 16})
    with datasets.open(tmp_path / "coarse.h5") as data:
        assert (
            plan_run(data, dataclasses.replace(recipe, window_ms=400), 0, reuse=True).window == 40
        )
        with pytest.raises(UsageError, match="400 ms; use --set window_ms=400"):
            plan_run(data, dataclasses.replace(recipe, window_ms=410), seed=0, reuse=True)
        with pytest.raises(UsageError, match="leave no bin of 10 ms"):
            plan_run(data, dataclasses.replace(recipe, window_ms=20), seed=0, reuse=True)


def test_a_batch_holds_the_windows_of_the_plan(toy_data) -> None:
    with datasets.open(toy_data) as data:
        plan = plan_windows("distinct", data.trial_indices("train"), 400, 100, 6, 0, reuse=False)
        batch = read_batch(data, plan, 2, 3, "exact")
        assert batch.spikes.shape == batch.voltage.shape == (3, 100)
        for row in range(3):
            trial, start = int(plan.trial[2 + row]), int(plan.start[2 + row])
            whole = data[trial]
            soma = whole.voltage_mV["soma"][start : start + 100]
            assert np.array_equal(batch.voltage[row].numpy(), soma)
            events = whole.channel[whole.row_ptr[start] : whole.row_ptr[start + 100]]
            ours = batch.events.slice_steps(0, 100)
            ptr = ours.row_ptr[row * 100], ours.row_ptr[(row + 1) * 100]
            assert np.array_equal(ours.channel[ptr[0] : ptr[1]].numpy(), events)


def test_a_batch_of_the_bundled_sample_stays_far_under_two_megabytes() -> None:
    with datasets.open() as data:
        plan = plan_windows("distinct", data.trial_indices("train"), 6000, 1000, 320, 0, False)
        sizes = [read_batch(data, plan, first, 32, "exact").events.nbytes for first in (0, 32, 64)]
    assert max(sizes) < 1.5e6


def _events(rows: int, inputs: int, rate: float) -> SpikeEvents:
    generator = torch.Generator().manual_seed(1)
    return SpikeEvents.from_dense(torch.rand(2, rows, inputs, generator=generator) < rate)


def _placed(*sizes: int) -> Channels:
    return Channels([ChannelGroup(f"{n}", n, segments=range(n)) for n in sizes])


@pytest.mark.parametrize(("drop", "jitter"), [(0.0, 0.5), (0.3, 0.0), (0.2, 1.0)])
def test_jitter_keeps_time_and_kind_of_spikes_and_the_format(drop, jitter) -> None:
    events = _events(200, 30, 0.05)
    varied = jitter_events(events, np.random.default_rng(0), drop, jitter, _placed(18, 12))
    varied.validate(30)
    before, after = events.to_dense(30), varied.to_dense(30)
    for kind in (slice(0, 18), slice(18, 30)):
        lost = before[..., kind].sum(2) - after[..., kind].sum(2)
        assert (lost >= 0).all()
        assert lost.sum() < (drop + 0.1) * before[..., kind].sum()


def test_segment_jitter_moves_the_stated_share_by_one_segment() -> None:
    # One spike per bin, so that none can meet another.
    channel = torch.full((4000,), 7, dtype=torch.int16)
    events = SpikeEvents(channel, torch.arange(4001, dtype=torch.int32), 1, 4000)
    varied = jitter_events(events, np.random.default_rng(0), 0.0, 0.4, _placed(10, 11))
    moved = varied.channel.numpy().astype(int) - 7
    assert set(moved) == {-1, 0, 1}
    assert np.mean(moved != 0) == pytest.approx(0.4, abs=0.03)
    assert np.mean(moved) == pytest.approx(0.0, abs=0.03)


def test_only_channels_with_a_place_are_jittered() -> None:
    events = _events(400, 20, 0.1)
    channels = Channels([ChannelGroup("a", 8), ChannelGroup("b", 12, segments=range(12))])
    varied = jitter_events(events, np.random.default_rng(0), 0.0, 1.0, channels)
    before, after = events.to_dense(20), varied.to_dense(20)
    assert (before[..., :8] == after[..., :8]).all()
    assert (before[..., 8:] != after[..., 8:]).any()
