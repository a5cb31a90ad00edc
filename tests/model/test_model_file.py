"""The model file: what is saved comes back, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import surrogate
from surrogate import RecurrentStack, datasets
from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import DataError
from surrogate.model.card import ModelCard
from surrogate.model.model_file import load, save
from surrogate.model.spike_rule import SpikeRule

MODULES = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def _stack(arch: str = "lstm", head: str = "recurrent") -> RecurrentStack:
    torch.manual_seed(5)
    return RecurrentStack(arch, (4, 3, 2), input_size=20, head=head, voltage_offset=-67.7)


def _card(stack: RecurrentStack) -> ModelCard:
    groups = [
        ChannelGroup("excitatory", 10, "AMPA", sign=1, segments=range(10)),
        ChannelGroup("inhibitory", 10),
    ]
    return ModelCard(
        stack.spec,
        Channels(groups),
        1.0,
        # no float32: a file that rounds would show
        spike_rule=SpikeRule("level", 1 / 3, 6, "hand"),
        segments={"type": ["basal"] * 10, "length_um": [20.5] * 10},
        resting_voltage_mv=-76.0,
        input_rate_hz={"excitatory": [0.5, 1.5], "inhibitory": [1.0, 2.0]},
        recipe={"name": "tuned", "epochs": 3},
        seed=1,
        metrics={"roc_auc": 0.95},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stack = _stack()
    save(tmp_path / "model.h5", stack, _card(stack))
    return tmp_path / "model.h5"


@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_what_is_saved_comes_back(tmp_path, arch, head) -> None:
    stack = _stack(arch, head)
    save(tmp_path / "m.h5", stack, _card(stack))
    model = surrogate.load(tmp_path / "m.h5")
    assert model.card == _card(stack)
    assert model.spike_rule.logit == 1 / 3
    assert model.stack.spec == stack.spec
    assert model.state_dict().keys() == stack.state_dict().keys()
    for name, weight in stack.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert model.path == tmp_path / "m.h5"


def test_saving_twice_gives_equal_files(tmp_path, path) -> None:
    model = load(path)
    save(tmp_path / "again.h5", model.stack, model.card)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_loaded_weights_compute_the_same_in_torch_nn(tmp_path, toy_data, arch) -> None:
    stack = _stack(arch)
    save(tmp_path / "m.h5", stack, _card(stack))
    model = load(tmp_path / "m.h5")
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
    stack = _stack(arch)
    for mine, theirs in zip(stack.layers, layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    save(tmp_path / "m.h5", stack, _card(stack))
    loaded = load(tmp_path / "m.h5").stack
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


def test_the_card_may_be_larger_than_an_hdf5_attribute(tmp_path) -> None:
    stack = _stack()
    card = dataclasses.replace(_card(stack), segments={"type": ["apical"] * 20_000})
    save(tmp_path / "m.h5", stack, card)
    assert load(tmp_path / "m.h5").card == card


def _expect(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path) -> None:
    _expect(tmp_path / "none.h5", "no such file")
    _expect(tmp_path, "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(path) -> None:
    path.chmod(0)
    _expect(path, "permission denied")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_files_that_are_no_hdf5(tmp_path, content) -> None:
    (tmp_path / "m.h5").write_bytes(content)
    _expect(tmp_path / "m.h5", "not a model file")


def test_a_data_set_is_not_a_model(toy_data) -> None:
    _expect(toy_data, "not a model file")


def test_any_hdf5_library_reads_it(path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["format"] == "surrogate-model"
        assert json.loads(file["card"].asstr()[()])["spec"]["arch"] == "lstm"
        np.testing.assert_array_equal(
            file["weights/layers.1.weight_hh_l0"], _stack().layers[1].weight_hh_l0.detach()
        )


def test_a_changed_weight_is_noticed(path) -> None:
    with h5py.File(path, "r+") as file:
        file["weights/layers.0.bias_ih_l0"][0] = 0.25
    _expect(path, "not those that were saved")


@contextlib.contextmanager
def _altered(path: Path) -> Iterator[h5py.File]:
    """A model file to be altered on purpose: sealed again, so that its content is looked at."""
    with h5py.File(path, "r+") as file:
        yield file
    body = path.read_bytes()[512:]
    seal = f"surrogate-model {hashlib.sha256(body).hexdigest()}\n"
    path.write_bytes(seal.encode().ljust(512) + body)


def _set_version(file: h5py.File) -> None:
    file.attrs["version"] = 99


def _odd_version(file: h5py.File) -> None:
    file.attrs["version"] = np.array([1, 1])


def _odd_format(file: h5py.File) -> None:
    file.attrs["format"] = np.array(["surrogate-model"] * 2, dtype=h5py.string_dtype())


def _nan_weight(file: h5py.File) -> None:
    file["weights/layers.0.bias_ih_l0"][0] = np.nan


def _lost_weight(file: h5py.File) -> None:
    del file["weights/layers.1.bias_ih_l0"]


def _extra_weight(file: h5py.File) -> None:
    file["weights/layers.9.bias_ih_l0"] = np.zeros(3)


def _misshapen_weight(file: h5py.File) -> None:
    del file["weights/layers.0.bias_ih_l0"]
    file["weights/layers.0.bias_ih_l0"] = np.zeros((4, 4), np.float32)


def _endless_weight(file: h5py.File) -> None:
    del file["weights/layers.0.bias_ih_l0"]
    file["weights"].create_dataset("layers.0.bias_ih_l0", (2**40,), "f4", chunks=(1024,))


def _text_weight(file: h5py.File) -> None:
    del file["weights/layers.0.bias_ih_l0"]
    file["weights/layers.0.bias_ih_l0"] = np.full(16, b"x")


def _no_weights(file: h5py.File) -> None:
    del file["weights"]


def _weights_are_an_array(file: h5py.File) -> None:
    del file["weights"]
    file["weights"] = np.zeros(4)


def _no_card(file: h5py.File) -> None:
    del file["card"]


def _card_is_a_group(file: h5py.File) -> None:
    del file["card"]
    file.create_group("card")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set_version, "model file version 99, this release reads 2"),
        (_odd_version, "model file version"),
        (_odd_format, "format is"),
        (_nan_weight, "layers.0.bias_ih_l0 holds values that are not finite"),
        (_lost_weight, "do not fit"),
        (_extra_weight, "do not fit"),
        (_misshapen_weight, "do not fit"),
        (_endless_weight, "do not fit"),
        (_text_weight, "not a readable model file"),
        (_no_weights, "not a readable model file"),
        (_weights_are_an_array, "not a readable model file"),
        (_no_card, "not a readable model file"),
        (_card_is_a_group, "not a readable model file"),
    ],
)
def test_damaged_files_are_refused(path, damage: Callable[[h5py.File], None], message) -> None:
    with _altered(path) as file:
        damage(file)
    _expect(path, message)


CARD_DAMAGE = [
    {"spec": {"arch": "transformer"}},
    {"spec": {"arch": ["lstm"]}},
    {"spec": {"hidden_sizes": [4, 3, 1000, 2]}},
    {"spec": {"hidden_sizes": "4-3-2"}},
    {"spec": {"hidden_sizes": 3}},
    {"spec": {"input_size": 10**9}},
    {"spec": {"input_size": "many"}},
    {"spec": {"input_size": 21}},
    {"spec": {"head": None}},
    {"spec": {"voltage_scale": 0}},
    {"spec": {"unheard_of": 1}},
    {"spike_rule": {"logit": 10**400}},
    {"spike_rule": {"unheard_of": 1}},
    {"spike_rule": "level"},
    {"channels": {"groups": []}},
    {"channels": {"groups": [{"name": "a"}]}},
    {"channels": 20},
    {"dt_ms": 0},
    {"dt_ms": "1"},
    {"unheard_of": 1},
]


@pytest.mark.parametrize("changes", CARD_DAMAGE, ids=lambda changes: json.dumps(changes)[:40])
def test_impossible_cards_are_refused(path, changes) -> None:
    with _altered(path) as file:
        card = json.loads(file["card"].asstr()[()])
        for name, value in changes.items():
            both = isinstance(value, dict) and isinstance(card.get(name), dict)
            card[name] = card[name] | value if both else value
        del file["card"]
        file["card"] = json.dumps(card)
    _expect(path, "card is damaged")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, '{"arch": NaN}'])
def test_cards_that_are_no_card_are_refused(path, text) -> None:
    with _altered(path) as file:
        del file["card"]
        file["card"] = text
    _expect(path, "damaged|not a readable model file")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
def test_mutated_bytes_are_refused(path, draw) -> None:
    original = path.read_bytes()
    content = bytearray(original)
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    assume(content != original)
    mutant = path.with_name("mutant.h5")
    mutant.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(mutant)
    assert "\n" not in str(error.value)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 0.999))
def test_truncated_files_are_refused(path, share) -> None:
    content = path.read_bytes()
    mutant = path.with_name("mutant.h5")
    mutant.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError):
        load(mutant)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    stack = _stack()
    with pytest.raises(DataError, match=r"file/m\.h5: "):
        save(tmp_path / "file" / "m.h5", stack, _card(stack))


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
    assert [file.name for file in path.parent.iterdir()] == ["model.h5"]
