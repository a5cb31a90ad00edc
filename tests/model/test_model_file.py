"""The model file: what is saved comes back."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import surrogate
from helpers.model_files import BRANCHES, a_card, a_stack
from surrogate import RecurrentStack, datasets
from surrogate.channels import Channels
from surrogate.errors import DataError
from surrogate.model.card import ModelCard
from surrogate.model.model_file import load, save

MODULES = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stack = a_stack()
    save(tmp_path / "model.safetensors", stack, a_card(stack))
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("branches", [None, BRANCHES])
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm", "elm"])
def test_what_is_saved_comes_back(tmp_path, arch, head, branches) -> None:
    stack = a_stack(arch, head, branches=branches)
    save(tmp_path / "m.safetensors", stack, a_card(stack))
    model = surrogate.load(tmp_path / "m.safetensors")
    assert model.card == a_card(stack)
    assert model.spike_rule.logit == 1 / 3
    assert model.stack.spec == stack.spec
    assert model.state_dict().keys() == stack.state_dict().keys()
    for name, weight in stack.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert model.path == tmp_path / "m.safetensors"


def test_saving_twice_gives_equal_files(tmp_path, path) -> None:
    model = load(path)
    save(tmp_path / "again.safetensors", model.stack, model.card)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_loaded_weights_compute_the_same_in_torch_nn(tmp_path, toy_data, arch) -> None:
    stack = a_stack(arch)
    save(tmp_path / "m.safetensors", stack, a_card(stack))
    model = load(tmp_path / "m.safetensors")
    weights = model.state_dict()
    with datasets.open(toy_data) as data:
        events = data.events([0, 1], [0, 0], 100)
    x = events.to_dense(20)
    for index, (n_in, size) in enumerate(((20, 4), (4, 3), (3, 2))):
        layer = MODULES[arch](n_in, size, batch_first=True)
        prefix = f"layers.{index}."
        layer.load_state_dict(
            {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
        )
        x, _ = layer(x)
    probability, voltage = model.predict(events)
    np.testing.assert_allclose(probability, torch.sigmoid(x[..., 0]).detach(), atol=1e-6)
    np.testing.assert_allclose(voltage, x[..., 1].detach() * 100 - 67.7, atol=1e-4)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_torch_nn_weights_can_be_saved_as_a_model(tmp_path, arch) -> None:
    torch.manual_seed(8)
    layers = [MODULES[arch](20, 4), MODULES[arch](4, 3), MODULES[arch](3, 2)]
    stack = a_stack(arch)
    for mine, theirs in zip(stack.layers, layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    save(tmp_path / "m.safetensors", stack, a_card(stack))
    loaded = load(tmp_path / "m.safetensors").stack
    for mine, theirs in zip(loaded.layers, layers, strict=True):
        for name, weight in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight)


def test_predict_takes_a_data_set_or_events(toy_data, path) -> None:
    model = load(path)
    with datasets.open(toy_data) as data:
        probability, voltage = model.predict(data)
        events = data.events(np.arange(12), np.zeros(12, int), 400)
    assert probability.shape == voltage.shape == (12, 400)
    assert probability.min() > 0
    assert probability.max() < 1
    np.testing.assert_allclose(model.predict(events)[0], probability, atol=1e-6)


def test_safetensors_alone_reads_it(path) -> None:
    with safetensors.safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["surrogate-model"])
        assert file.keys() == sorted(a_stack().state_dict())
        weight = file.get_tensor("layers.1.weight_hh_l0")
    assert about["card"]["spec"]["arch"] == "lstm"
    np.testing.assert_array_equal(weight, a_stack().layers[1].weight_hh_l0.detach())


def test_weights_that_do_not_lie_in_order_are_saved_as_they_are_read(tmp_path) -> None:
    stack = a_stack()
    layer = stack.layers[0]
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.t().contiguous().t()
    save(tmp_path / "m.safetensors", stack, a_card(stack))
    assert torch.equal(
        load(tmp_path / "m.safetensors").stack.layers[0].weight_hh_l0, layer.weight_hh_l0
    )


def test_a_card_may_be_large(tmp_path) -> None:
    stack = a_stack()
    card = a_card(stack)
    card.segments = {"type": ["apical"] * 20_000}
    save(tmp_path / "m.safetensors", stack, card)
    assert load(tmp_path / "m.safetensors").card == card


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    stack = a_stack()
    with pytest.raises(DataError, match=r"file/m\.safetensors: "):
        save(tmp_path / "file" / "m.safetensors", stack, a_card(stack))


def test_a_full_disk_leaves_the_old_file(path) -> None:
    before = path.read_bytes()
    stack = RecurrentStack("lstm", (64, 2), 1278)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError) as error:
            save(path, stack, ModelCard(stack.spec, Channels.of(input=1278), 1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
