"""Headers and trials made by hand: what is wrong with them is said before it is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from surrogate import datasets
from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets import Header, Trial
from surrogate.errors import DataError, UsageError


def test_a_trial_is_made_from_lists_of_spikes() -> None:
    header = Header(40, Channels.of(excitatory=2, inhibitory=1), 0.1, amplitudes=True)
    # 0.3 / 0.1 falls short of 3 in floating point; the two spikes at 1.0 share a bin.
    trial = Trial.from_spikes(
        header,
        channel=[2, 0, 1, 0, 0],
        time_ms=[0.3, 1.05, 1.0, 1.0, 3.9999999],
        amplitude=[1, 2, 3, 4, 5],
        spike_time_ms=[2.5, 1.5],
        voltage_mV={"soma": np.zeros(40)},
    )
    assert trial.problems(header) == []
    assert trial.channel.tolist() == [2, 0, 1, 0]
    assert np.flatnonzero(np.diff(trial.row_ptr)).tolist() == [3, 10, 39]
    assert trial.amplitude is not None
    assert trial.amplitude.tolist() == [1, 6, 3, 5]
    assert trial.spike_time_ms.tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("channel", "time_ms", "message"),
    [
        ([3], [0], "channels from 3 to 3: expected 0 to below 3"),
        ([-1], [0], "channels from -1"),
        ([0], [4.0], "times in ms from 4 to 4: expected 0 to below 4"),
        ([0], [-0.1], "times in ms"),
        ([0], [np.nan], "times in ms"),
        ([0, 1], [1], "one time for each channel"),
    ],
)
def test_spikes_outside_the_trial_are_refused(channel, time_ms, message) -> None:
    header = Header(40, Channels.of(excitatory=2, inhibitory=1), 0.1)
    with pytest.raises(UsageError, match=message):
        Trial.from_spikes(header, channel, time_ms, spike_time_ms=[], voltage_mV={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": np.array([4], np.uint16)}, "channel 4 is outside 0..3"),
        ({"row_ptr": np.arange(51)}, "row_ptr ends at 50, but there are 1 events"),
        ({"voltage_mV": {"soma": np.zeros(49)}}, "soma voltage has 49 samples, expected 50"),
        ({"voltage_mV": {"soma": np.full(50, 1e6)}}, "soma voltage is beyond 1000 mV at 50"),
        ({"voltage_mV": {"dendrite": np.zeros(50)}}, "voltages are dendrite, not soma"),
        ({"amplitude": np.ones(1)}, "amplitude is not announced"),
        ({"weight": np.ones(4)}, "weight is not announced"),
        ({"spike_time_ms": np.array([2.0, 1.0])}, "output spike times must not decrease"),
        (
            {"spike_time_ms": np.array([5.1])},
            "output spike times lie past 5 ms, the last at 5.1 ms",
        ),
        ({"silenced": np.array([2], np.uint16)}, "a silenced channel has no event"),
        ({"rounded_spike_time_ms": np.zeros(0)}, "rounded spike times are not announced"),
    ],
)
def test_a_broken_trial_is_not_written(change, message, tmp_path: Path) -> None:
    header = Header(50, Channels.of(excitatory=4), 0.1)
    sound = Trial.from_spikes(header, [3], [1], spike_time_ms=[], voltage_mV={"soma": np.zeros(50)})
    with pytest.raises(DataError, match=f"^trial 1: {message}"):
        datasets.write(tmp_path / "a.h5", header, [sound, dataclasses.replace(sound, **change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0: expected 1"),
        ({"dt_ms": 0.0}, "dt_ms is 0.0: expected bins of"),
        ({"dt_ms": float("nan")}, "dt_ms is nan"),
        ({"voltages": ("nexus",)}, "soma is missing"),
        ({"voltages": ("soma", "a/b")}, "'a/b' is no name"),
        ({"segments": {"x": np.zeros(2), "y": np.zeros(3)}}, r"\[2, 3\] rows"),
        ({"segments": {"x": np.zeros((2, 2))}}, "a number or a text for each segment"),
        ({"segments": {"x": np.array(["\u00e9"])}}, "other than ASCII"),
        ({"channels": Channels([ChannelGroup("a", 2, segments=(0, 1))])}, "on segment 1"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(fields, message) -> None:
    sound = {"n_steps": 5, "channels": Channels.of(excitatory=4), "dt_ms": 1.0}
    with pytest.raises(UsageError, match=message):
        Header(**(sound | {"segments": {"x": np.zeros(1)}} | fields))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "at least one"),
        ([ChannelGroup("a", 1), ChannelGroup("a", 2)], "a name comes twice"),
        ([ChannelGroup("a", 20_000), ChannelGroup("b", 20_000)], "40000 input channels"),
    ],
)
def test_groups_that_make_no_neuron_are_refused(groups, message) -> None:
    with pytest.raises(UsageError, match=message):
        Channels(groups)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "1 to 32 characters"),
        ({"name": "\u03b1"}, "printable ASCII"),
        ({"size": 0}, "has size 0"),
        ({"size": 2.0}, "has size 2.0"),
        ({"sign": 2}, "has sign 2"),
        ({"segments": (0, 1)}, "has 3 channels, its segments are 2"),
        ({"segments": (0, 1, -1)}, "from -1 on"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(fields, message) -> None:
    with pytest.raises(UsageError, match=message):
        ChannelGroup(**({"name": "a", "size": 3} | fields))
