"""Exact spike times from the finely sampled voltage."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surrogate.datasets.spike_times import local_maxima, recover_spike_times


def resting(samples: int) -> np.ndarray:
    return np.full(samples, -70, np.float16)


def test_a_peak_above_threshold_is_a_spike_at_its_sample() -> None:
    voltage = resting(48_000)
    voltage[[33, 21_223]] = 30
    voltage[100] = -30
    listed = (np.array([33, 21_223]) / 8).astype(np.float16)
    times = recover_spike_times(voltage, 8, listed)
    assert times is not None
    assert times.tolist() == [4.125, 2652.875]
    assert listed[1] == 2652


def test_the_threshold_itself_is_no_spike() -> None:
    voltage = resting(100)
    voltage[50] = -25
    assert local_maxima(voltage) == []


def test_a_plateau_is_one_spike_at_the_first_sample_that_fits_the_list() -> None:
    voltage = resting(8_000)
    voltage[801:803] = 31
    assert [samples.tolist() for samples in local_maxima(voltage)] == [[801, 802]]
    first = recover_spike_times(voltage, 8, np.array([801 / 8], np.float16))
    second = recover_spike_times(voltage, 8, np.array([802 / 8], np.float16))
    assert first is not None
    assert second is not None
    assert (first[0], second[0]) == (801 / 8, 802 / 8)


def test_a_step_on_the_way_up_or_down_is_no_spike() -> None:
    voltage = resting(100)
    voltage[40:46] = [-10, -10, 30, 5, 5, -20]
    assert [samples.tolist() for samples in local_maxima(voltage)] == [[42]]


def test_a_spike_that_the_recording_cuts_off_is_no_maximum() -> None:
    voltage = resting(100)
    voltage[:3] = 20
    voltage[-2:] = 20
    assert local_maxima(voltage) == []
    assert local_maxima(np.zeros(0)) == []


def test_another_count_or_another_time_is_not_recovered() -> None:
    voltage = resting(48_000)
    voltage[[800, 1600]] = 30
    assert recover_spike_times(voltage, 8, np.array([100], np.float16)) is None
    assert recover_spike_times(voltage, 8, np.array([100, 201], np.float16)) is None
    assert recover_spike_times(voltage, 8, np.array([100, 200, 300], np.float16)) is None
    assert recover_spike_times(voltage, 8, np.array([100, np.nan], np.float16)) is None


@given(st.lists(st.integers(1, 3000 - 2), unique=True, max_size=40))
def test_all_spikes_are_recovered_whatever_their_spacing(gaps: list[int]) -> None:
    samples = np.sort(np.array(gaps, int)) * 16
    voltage = resting(48_000)
    voltage[samples] = 20
    times = recover_spike_times(voltage, 8, (samples / 8).astype(np.float16))
    assert times is not None
    np.testing.assert_array_equal(times, samples / 8)


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_the_exact_times_of_the_shared_files_round_to_their_listed_ones(
    shared_data: Path, name: str
) -> None:
    with h5py.File(shared_data / f"l5pc-{name}.h5", "r", locking=False) as file:
        exact = file["output/spike_time_ms"][:]
        listed = file["output/spike_time_ms_float16_rounded"][:]
    np.testing.assert_array_equal(exact.astype(np.float16), listed)
