"""Branches and ELMs train, resume, are saved and step like any stack; what feeds the branches."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

import surrogate
from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import Interrupted, UsageError
from surrogate.training.routing import route

SMALL = {
    "windows_per_epoch": 16,
    "batch_size": 4,
    "window_ms": 100,
    "burn_in_ms": 20,
    "epochs": 2,
    "branches": 5,
    "branch_synapses": 8,
}


def _train(data, out, arch="gru", **settings):
    given = {**SMALL, "input": "branches", **settings}
    return surrogate.train(data, arch=arch, hidden="6-2", out=out, plots=False, **given)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm", "elm"])
def test_training_behind_branches_teaches_the_toy_neuron(toy_data, tmp_path, arch) -> None:
    many = {
        "epochs": 12,
        "windows_per_epoch": 160,
        "batch_size": 16,
        "window_ms": 200,
        "reuse_windows": True,
    }
    run = _train(toy_data, tmp_path / "run", arch, learning_rate=0.02, **many)
    first, last = run.history[0], run.history[-1]
    assert last["loss"] < first["loss"]
    assert max(entry["roc_auc"] for entry in run.history) > 0.8
    branches = run.model.stack.spec.branches
    assert branches.count == 5
    signed = branches.signed(run.model.state_dict()["branches.weight"])
    of_excitation = branches.channel < 10
    assert (signed[of_excitation] > 0).all()
    assert (signed[~of_excitation] < 0).all()
    tau = run.model.state_dict()["branches.log_tau"].exp()
    assert ((tau - 5).abs() > 1e-3).all()


@pytest.mark.parametrize("saturation", ["tanh", "none"])
@pytest.mark.parametrize("weights", ["softplus", "relu"])
def test_an_interrupted_run_resumes_bit_equal_and_steps(
    toy_data, tmp_path, weights, saturation
) -> None:
    stage = {"branch_weights": weights, "branch_saturation": saturation}
    whole = _train(toy_data, tmp_path / "whole", "elm", **stage)

    def interrupt(progress) -> None:
        if progress.step == 6:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 6 of 8"):
        _train(toy_data, tmp_path / "stopped", "elm", progress=interrupt, **stage)
    resumed = surrogate.resume(tmp_path / "stopped", plots=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name

    model = surrogate.load(whole.model_path)
    branches = model.card.spec.branches
    assert (branches.weights, branches.saturation) == (weights, saturation)
    stepper = model.stack.stepper(2)
    events = whole.dataset.events([0, 1], [0, 0], 50)
    _, voltage = model.predict(events)
    counts, lost = events.to_dense(20).int().numpy(), np.zeros(2, np.int64)
    spec = model.stack.spec
    for t in range(50):
        stepper.step_counts(counts[:, t].copy(), lost)
        stepped = stepper.outputs[:, 1] * spec.voltage_scale + spec.voltage_offset
        np.testing.assert_allclose(stepped, voltage[:, t], atol=1e-3)


def test_synapses_of_unknown_sign_may_get_any(toy_data, tmp_path) -> None:
    from surrogate import datasets
    from surrogate.training.initial_weights import initialise
    from surrogate.training.recipe import load_recipe

    recipe = load_recipe("tuned", "elm", SMALL)
    channels = Channels([ChannelGroup("any", 20)])
    stack = surrogate.RecurrentStack.from_spec(recipe.stack_spec("elm", (3, 2), channels))
    with datasets.open(toy_data) as data:
        initialise(stack, recipe, data, data.trial_indices("train"), seed=0)
    weight = stack.state_dict()["branches.weight"]
    assert weight.min() < 0 < weight.max()
    assert weight.abs().max() <= recipe.branch_weight


def test_overlapping_branches_are_the_published_ones() -> None:
    channels = Channels.of(excitatory=639, inhibitory=639)
    expected = [
        [j // 2 + 639 * (j % 2) for j in range(b * 29, b * 29 + 100) if j < 1278] for b in range(45)
    ]
    assert route("overlapping", channels, {}, 45, 100) == expected


def test_branches_by_place_are_stretches_of_the_dendrite() -> None:
    groups = [ChannelGroup(kind, 6, segments=range(6)) for kind in ("excitatory", "inhibitory")]
    table = {
        "type": np.array(["basal", "apical", "basal", "apical", "apical", "basal"]),
        "section": np.array([1, 3, 0, 2, 2, 1]),
        "distance_um": np.array([30.0, 9.0, 5.0, 50.0, 40.0, 20.0]),
    }
    found = route("place", Channels(groups), table, 3, 100)
    # apical section 2 from 40 to 50 um, then 3; basal section 0, then 1 from 20 to 30 um
    assert found == [[4, 10, 3, 9], [1, 7, 2, 8], [5, 11, 0, 6]]


@pytest.mark.parametrize(
    ("routing", "branches", "message"),
    [
        ("overlapping", 21, "recipe branches = 21: expected at most the 20 channels"),
        ("place", 11, "recipe branches = 11: expected at most the 10 segments with channels"),
    ],
)
def test_more_branches_than_can_be_fed_are_refused(routing, branches, message) -> None:
    groups = [ChannelGroup(kind, 10, segments=range(10)) for kind in ("excitatory", "inhibitory")]
    with pytest.raises(UsageError, match=message):
        route(routing, Channels(groups), {}, branches, 100)


def test_branches_by_place_need_a_place() -> None:
    with pytest.raises(UsageError, match="channel group 'excitatory' has no place"):
        route("place", Channels.of(excitatory=5), {}, 2, 100)
