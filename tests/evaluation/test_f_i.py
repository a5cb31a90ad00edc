"""Output against input: windows counted by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from surrogate.channels import ChannelGroup, Channels
from surrogate.evaluation.bootstrap import Resamples, draw_weights
from surrogate.evaluation.f_i import f_i_curves
from surrogate.evaluation.protocols import Outputs
from surrogate.kernels import SpikeEvents

TRIALS, STEPS, FIRST = 6, 1050, 100


@pytest.fixture
def recorded() -> tuple[SimpleNamespace, Outputs, np.ndarray]:
    """A data set of 4 excitatory and 2 inhibitory channels, outputs from bin 100 on, its input."""
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.uniform(0, 0.3, (TRIALS, 23, 2)), 50, axis=1)
    dense = rng.random((TRIALS, STEPS + FIRST, 6)) < np.repeat(rates, (4, 2), axis=2)

    def events(trials, starts, steps) -> SpikeEvents:
        rows = [dense[n, start : start + steps] for n, start in zip(trials, starts, strict=True)]
        return SpikeEvents.from_dense(torch.from_numpy(np.stack(rows)))

    spikes, emitted = (rng.random((2, TRIALS, STEPS)) < 0.02).astype(np.uint8)
    outputs = Outputs(
        *(0.0 * spikes, 0.0 * spikes, spikes, 0.0 * spikes, emitted > 0),
        trials=np.arange(TRIALS),
        dropped=0,
        first_bin=FIRST,
        protocol="stateful",
        labels="exact",
        seconds=0.0,
    )
    channels = Channels.of(excitatory=4, inhibitory=2)
    return SimpleNamespace(channels=channels, events=events), outputs, dense[:, FIRST:]


def test_windows_are_divided_by_inhibition_then_by_excitation(recorded) -> None:
    data, outputs, dense = recorded
    curves = f_i_curves(data, outputs, Resamples(outputs, draw_weights(TRIALS, 50, 0)))
    windows = dense[:, :1000].reshape(TRIALS * 5, 200, 6).sum(axis=1)
    excitation, inhibition = windows[:, :4].sum(axis=1), windows[:, 4:].sum(axis=1)
    counts = {
        name: train[:, :1000].reshape(TRIALS * 5, 200).sum(axis=1)
        for name, train in (("neuron", outputs.spikes), ("surrogate", outputs.emitted))
    }
    by_inhibition = np.argsort(inhibition, kind="stable")
    for index, curve in enumerate(curves):
        among = np.sort(by_inhibition[10 * index : 10 * (index + 1)])
        assert curve["inhibition_hz"] == pytest.approx(inhibition[among].mean() / 2 / 0.2)
        order = among[np.argsort(excitation[among], kind="stable")]
        assert len(curve["points"]) == 5
        for at, point in enumerate(curve["points"]):
            part = order[2 * at : 2 * at + 2]
            assert point["excitation_hz"] == pytest.approx(excitation[part].mean() / 4 / 0.2)
            assert point["seconds"] == pytest.approx(0.4)
            for name, count in counts.items():
                assert point[f"{name}_hz"] == pytest.approx(count[part].sum() / 0.4)
                low, high = point[f"{name}_hz_interval"]
                assert low <= point[f"{name}_hz"] <= high


def test_there_are_no_curves_without_a_rule_or_signs(recorded) -> None:
    data, outputs, _ = recorded
    resamples = Resamples(outputs, draw_weights(TRIALS, 0, 0))
    first = f_i_curves(data, outputs, resamples)[0]["points"][0]
    assert first["neuron_hz_interval"] is None
    assert f_i_curves(data, replace(outputs, emitted=None), resamples) is None
    data.channels = Channels([ChannelGroup("any", 6)])
    assert f_i_curves(data, outputs, resamples) is None
