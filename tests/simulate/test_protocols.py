"""Drawn input trains are those of the protocol: the real trials' statistics, and its definition."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from surrogate import datasets
from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import UsageError
from surrogate.simulate import protocols
from surrogate.simulate.protocols import L5PCProtocol

BLOCK = 25  # ms


def _protocol(dataset: datasets.Dataset) -> L5PCProtocol:
    return L5PCProtocol(dataset.channels, dataset.segments, dataset.n_steps, dataset.dt_ms)


def _counts(channel: NDArray, row_ptr: NDArray, n_inputs: int, n_steps: int) -> NDArray:
    """Spikes of each channel in blocks of 25 ms [channels, blocks]."""
    blocks = n_steps // BLOCK
    block = np.repeat(np.arange(n_steps) // BLOCK, np.diff(row_ptr))
    flat = np.bincount(channel.astype(int) * blocks + block, minlength=n_inputs * blocks)
    return flat.reshape(n_inputs, blocks)


def _statistics(counts: NDArray, kinds: dict[str, NDArray]) -> dict[str, float]:
    """One trial's rates and correlations, by name; ``kinds`` are the channels of each population.

    Covariances are in units of the product of the means.
    """
    sums = {name: counts[of].sum(0) for name, of in kinds.items()}
    found = {}
    for name, each in sums.items():
        for where, part in (("", each), (" at the start", each[:4]), (" at the end", each[-4:])):
            found[f"rate of {name}{where}"] = part.mean() / BLOCK
        centred = each - each.mean()
        for lag in (1, 2, 4, 8, 16, 32):
            product = (centred[lag:] * centred[:-lag]).mean() / each.var()
            found[f"{name} with itself {lag * BLOCK} ms later"] = product
        own = counts[kinds[name]].astype(float)
        means = own.mean(1).clip(1e-9)
        scaled = own / means[:, None]
        pairs = len(own) * (len(own) - 1)
        together = (scaled.sum(0) ** 2 - (scaled**2).sum(0)).mean() / pairs
        found[f"pairs of synapses of {name}"] = together
        # More than two synapses have in common: the factor of each synapse and interval.
        alone = ((own * (own - 1)).mean(1) / means**2).mean()
        found[f"one synapse of {name}"] = alone - together
    for first, second in itertools.combinations(sums, 2):
        a, b = sums[first] / sums[first].mean(), sums[second] / sums[second].mean()
        found[f"{first} with {second}"] = ((a - 1) * (b - 1)).mean()
    return found


def _populations(dataset: datasets.Dataset) -> dict[str, NDArray]:
    types = dataset.segments["type"]
    return {
        f"{group.name} {tree}": of.start + np.flatnonzero(types[list(group.segments)] == tree)
        for group, of in zip(dataset.channels.groups, dataset.channels.slices.values(), strict=True)
        for tree in np.unique(types)
    }


def _compare(path: Path | None) -> dict[str, tuple[float, float, float]]:
    """The statistics in which real and drawn trials differ: both means and their standard error."""
    with datasets.open(path) as dataset:
        size = dataset.n_inputs, dataset.n_steps
        protocol, populations = _protocol(dataset), _populations(dataset)
        real = [_counts(t.channel, t.row_ptr, *size) for t in dataset]
    events = [protocol.draw(7, [trial]) for trial in range(120)]
    drawn = [_counts(each.channel.numpy(), each.row_ptr.numpy(), *size) for each in events]
    tables = [[_statistics(one, populations) for one in counts] for counts in (real, drawn)]
    far = {}
    for name in tables[0][0]:
        a, b = (np.array([row[name] for row in table]) for table in tables)
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        if abs(a.mean() - b.mean()) > 3 * error:
            far[name] = a.mean(), b.mean(), error
    # Each synapse's rate in units of its population's mean: the share that its length gives it.
    for of in populations.values():
        share = protocol._share[of] * len(of)
        rates = [np.mean([one[of].sum(1) for one in counts], axis=0) for counts in (real, drawn)]
        for each in rates:
            assert np.polyfit(share, each / each.mean(), 1) == pytest.approx([1, 0], abs=0.02)
        assert np.corrcoef(rates)[0, 1] > 0.97
    return far


def test_draws_have_the_statistics_of_the_bundled_trials() -> None:
    assert not _compare(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "shown_by"),
    [
        ("_SPREAD", 0.35, "one synapse of excitatory basal"),
        ("_SIGMA", (30, 40, 60), "rate of excitatory apical at the end"),
        ("_HELD", (200, 300, 450), "inhibitory basal with itself 100 ms later"),
    ],
)
def test_draws_of_another_protocol_are_told_apart(name, value, shown_by, monkeypatch) -> None:
    monkeypatch.setattr(protocols, name, value)
    assert shown_by in _compare(None)


@pytest.mark.slow
def test_draws_have_the_statistics_of_further_trials(shared_data, tmp_path) -> None:
    from surrogate.datasets.convert import convert

    converted = tmp_path / "train.h5"
    convert([shared_data / "l5pc-train.h5"], converted)
    assert not _compare(converted)


def _small(**changes: object) -> L5PCProtocol:
    """Few synapses, so that each is due up to 0.9 spikes per ms."""
    segments = {"type": ["basal"] * 4 + ["apical"] * 5, "length_um": [10.0] * 9}
    groups = [ChannelGroup(kind, 9, segments=range(9)) for kind in ("excitatory", "inhibitory")]
    values = {"scale": 0.23, "n_steps": 500, **changes}
    return L5PCProtocol(Channels(groups), segments, **values)


def _by_definition(protocol: L5PCProtocol, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A trial by the published steps, one dense array after the other."""
    held = rng.choice(protocols._HELD) + rng.integers(-20, 21)
    sigma = rng.choice(protocols._SIGMA) + rng.integers(-20, 21)
    rate = np.repeat(protocol._draw_rates(rng, -(-protocol.n_steps // held)), held, axis=1)
    rate = rate[:, : protocol.n_steps]
    window = np.exp(-0.5 * ((np.arange(1 + 7 * sigma) - 3.5 * sigma) / sigma) ** 2)
    window /= window.sum()
    first = (window.size - 1) // 2
    smooth = [np.convolve(row, window)[first : first + row.size] for row in rate]
    return rng.random(rate.shape) < rng.exponential(np.maximum(smooth, 1e-300))


def test_thinned_candidates_are_the_published_draw_also_at_high_rates() -> None:
    protocol = _small()
    rng = np.random.default_rng(3)
    dense = np.array([_by_definition(protocol, rng) for _ in range(600)])
    drawn = protocol.draw(0, range(600)).to_dense(18).numpy().transpose(0, 2, 1) > 0
    assert dense.mean() > 0.1
    for name, value in {
        "rate": lambda x: x.mean(axis=(1, 2)),
        "start": lambda x: x[:, :, :20].mean(axis=(1, 2)),
        "end": lambda x: x[:, :, -20:].mean(axis=(1, 2)),
        "excitation": lambda x: x[:, :9].mean(axis=(1, 2)),
        "next ms": lambda x: (x[:, :, 1:] & x[:, :, :-1]).mean(axis=(1, 2)),
        "30 ms": lambda x: (x[:, :, 30:] & x[:, :, :-30]).mean(axis=(1, 2)),
        "neighbours": lambda x: (x[:, 1:] & x[:, :-1]).mean(axis=(1, 2)),
    }.items():
        a, b = value(dense), value(drawn)
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 3 * error, name


def test_a_smoothed_rate_of_l_gives_a_spike_with_probability_l_1_minus_exp_of_1_over_l(monkeypatch):
    protocol = _small(n_steps=20_000)
    monkeypatch.setattr(
        L5PCProtocol, "_draw_rates", lambda _, rng, intervals: np.full((18, intervals), 0.7)
    )
    spikes = protocol.draw(0, [0]).to_dense(18)[0, 3000:-3000]  # away from the ends
    expected = 0.7 * (1 - np.exp(-1 / 0.7))
    error = np.sqrt(expected * (1 - expected) / spikes.numel())
    assert spikes.mean().item() == pytest.approx(expected, abs=4 * error)
    assert (spikes[1:] * spikes[:-1]).mean().item() == pytest.approx(expected**2, abs=4 * error)


def test_a_trial_depends_on_seed_and_number_alone() -> None:
    protocol = _small()
    several = protocol.draw(5, [3, 0, 9])
    several.validate(18)
    for place, trial in enumerate([3, 0, 9]):
        alone, found = _small().draw(5, [trial]), several.slice_batch(place, 1)
        assert torch.equal(alone.channel, found.channel)
        assert torch.equal(alone.row_ptr, found.row_ptr)
    assert not torch.equal(protocol.draw(6, [3]).row_ptr, protocol.draw(5, [3]).row_ptr)


def test_bins_of_another_length_hold_the_same_rate() -> None:
    coarse, fine = _small(), _small(dt_ms=0.5, n_steps=1000)
    per_trial = [
        np.array([p.draw(0, [i]).channel.numel() for i in range(300)]) for p in (coarse, fine)
    ]
    # Only a little more: two spikes in one bin are one.
    assert 1.0 < per_trial[1].mean() / per_trial[0].mean() < 1.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": {"type": ["basal"] * 9}}, "no column 'length_um'"),
        ({"scale": 2.0}, "a synapse would be due up to .* spikes per bin of 1 ms"),
        ({"channels": Channels.of(excitatory=9)}, "group 'excitatory' has sign 1 and no segments"),
        (
            {"channels": Channels([ChannelGroup("odd", 9, segments=range(9))])},
            "group 'odd' has sign 0",
        ),
    ],
)
def test_neurons_that_the_protocol_cannot_drive_are_refused(changes, message) -> None:
    given = {"segments": _small().segments, "channels": _small().channels} | changes
    with pytest.raises(UsageError, match=message):
        L5PCProtocol(given["channels"], given["segments"], 500, scale=given.get("scale", 0.1))
