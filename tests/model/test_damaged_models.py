"""Files that are no models, damaged ones and hostile ones: one line each, and nothing allocated."""

from __future__ import annotations

import math
import os
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import surrogate
from helpers.model_files import a_card, a_stack, rewrite, sealed
from surrogate.cli.main import main
from surrogate.errors import DataError
from surrogate.model.model_file import load, save
from surrogate.stored import seal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stack = a_stack()
    save(tmp_path / "model.safetensors", stack, a_card(stack))
    return tmp_path / "model.safetensors"


def _expect(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_a_missing_file_is_named(tmp_path) -> None:
    _expect(tmp_path / "none", "no such file")


def test_of_a_folder_the_file_to_give_is_named(path) -> None:
    _expect(path.parent, f"is a folder; give {path}")
    path.unlink()
    _expect(path.parent, "is a folder; give the model.safetensors of a finished run")


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_commands_name_it_too(path, command, capsys) -> None:
    assert main([command, str(path.parent)]) == 1
    assert f"is a folder; give {path}" in capsys.readouterr().err


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    _expect(tmp_path / "pipe", "is a pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(path) -> None:
    path.chmod(0)
    _expect(path, "permission denied")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, not a model file"),
        (b"neither this nor that", "unknown kind of file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (pickle.dumps([0.5]), "pickle"),
        (seal(b"weights"), "checkpoint"),
        (safetensors.numpy.save({"weight": np.zeros(3)}), "without a model card"),
        (safetensors.numpy.save({}, {"format": "pt"}), "without a model card"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, content, message) -> None:
    (tmp_path / "m").write_bytes(content)
    _expect(tmp_path / "m", message)


def test_a_data_set_is_not_a_model(toy_data) -> None:
    _expect(toy_data, "an HDF5 file, such as a data set, not a model file")


BIAS = "layers.0.bias_ih_l0"
WEIGHT_DAMAGE = {
    "lost": (lambda weights: weights.pop(BIAS), f"'{BIAS}' is missing"),
    "extra": (lambda weights: weights.update({"odd": np.zeros(3)}), "'odd' is too many"),
    "misshapen": (
        lambda weights: weights.update({BIAS: weights[BIAS].reshape(4, 4)}),
        rf"{BIAS} is float32 \(4, 4\), expected float32 \(16,\)",
    ),
    "of another type": (
        lambda weights: weights.update({BIAS: weights[BIAS].astype(np.float16)}),
        f"{BIAS} is float16",
    ),
    "not finite": (lambda weights: weights[BIAS].fill(np.nan), f"{BIAS} holds values that are not"),
    "none": (lambda weights: weights.clear(), "the stack needs [0-9,]+ bytes, the file has"),
}


@pytest.mark.parametrize("damage", WEIGHT_DAMAGE)
def test_weights_that_are_not_the_card_s_are_refused(path, damage) -> None:
    change, message = WEIGHT_DAMAGE[damage]
    rewrite(path, lambda weights, about: change(weights))
    _expect(path, message)


def _entry(name: str, start: int, dtype: str = "F32", shape: str = "[16]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{start + 64}]}}'


@pytest.mark.parametrize(
    "entries",
    [
        _entry(BIAS, 0) + "," + _entry(BIAS, 64),
        _entry(BIAS, 4),
        _entry(BIAS, 2**62),
        _entry(BIAS, 0, "F8_E4M3", "[64]"),
        _entry(BIAS, 0, "BF16", "[32]"),
        _entry(BIAS, 0, "COMPLEX"),
        _entry(BIAS, 0, shape=f"[{2**62}, {2**62}]"),
        _entry(BIAS, 0, shape=f"[0, {2**63}]"),
        _entry(BIAS, 0, shape="[-16]"),
        _entry(BIAS, 0, shape=str([1] * 100)),
        _entry(BIAS, 0, shape="[" * 200_000),
        '"__metadata__":{}',
        "}",
        '"a":1',
    ],
    ids=lambda entries: entries[:70],
)
def test_headers_that_say_what_cannot_be_are_refused(path, entries) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata, _ = content[8 : 8 + length].split(b',"layers', 1)
    header = metadata + b"," + entries.encode() + b"}"
    stated = len(header).to_bytes(8, "little") + header
    path.write_bytes(sealed(stated + bytes(2000)))
    _expect(path, "damaged")


def test_a_header_longer_than_the_file_is_refused(path) -> None:
    content = path.read_bytes()
    path.write_bytes(sealed((2**50).to_bytes(8, "little") + content[8:]))
    _expect(path, "a header of 1,125,899,906,842,624 bytes, expected at most")


@pytest.mark.parametrize("sizes", [[512] * 64 + [2], [512] * 63 + [2], [10**6, 2], [512] * 10**6])
def test_a_card_that_asks_for_gigabytes_costs_nothing(path, sizes) -> None:
    rewrite(path, lambda _, about: about["card"]["spec"].update(hidden_sizes=sizes))
    tracemalloc.start()
    try:
        _expect(path, "needs 525,[0-9,]+ bytes|header of 5,002|damaged .model card")
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


def test_branches_of_a_million_channels_are_refused_at_once(path) -> None:
    branches = {"channels": [[0]] * 512, "signs": [0] * 900_000}
    rewrite(path, lambda _, about: about["card"]["spec"].update(branches=branches))
    start = time.monotonic()
    _expect(path, "branches of 900000 channels")
    assert time.monotonic() - start < 10


def test_a_file_larger_than_any_model_is_not_read(path) -> None:
    with open(path, "r+b") as file:
        file.truncate(2**40)
    _expect(path, "1,099,511,627,776 bytes; a model file has at most 1,073,741,824")


def test_another_version_is_named(path) -> None:
    rewrite(path, lambda _, about: about.update(version=99))
    _expect(path, "model file version 99, this release reads 3; update surrogate-neuron")


CARD_DAMAGE = [
    ("spec.arch", "transformer", "unknown arch 'transformer'"),
    ("spec.arch", ["lstm"], "expected text"),
    ("spec.hidden_sizes", [4, 3, 1000, 2], "from 1 to 512"),
    ("spec.hidden_sizes", [4, "3", 2], "hidden_sizes.1 = '3': expected a whole number"),
    ("spec.hidden_sizes", "4-3-2", "expected a list"),
    ("spec.hidden_sizes", 3, "expected a list"),
    ("spec.input_size", 10**9, "expected 1 to 32768"),
    ("spec.input_size", "many", "expected a whole number"),
    ("spec.input_size", 21, "20 input channels .* the stack has 21"),
    ("spec.head", None, "expected text"),
    ("spec.voltage_scale", 0, "expected a positive number"),
    ("spec.voltage_offset", math.inf, "expected a finite number"),
    ("spec.unheard_of", 1, "unknown model card key 'spec.unheard_of'"),
    ("spike_rule", "level", "expected a table"),
    ("spike_rule.kind", "curve", "expected 'level'"),
    ("spike_rule.logit", 10**400, "expected a finite number"),
    ("spike_rule.logit", math.nan, "expected a finite number"),
    ("spike_rule.refractory_bins", 0, "expected at least 1"),
    ("spike_rule.refractory_bins", 10**400, "expected less than 2147483648"),
    ("channels", 20, "expected a table"),
    ("channels.groups", [], "no channel group"),
    ("channels.groups", [{"name": "a\nb" * 9, "size": 1}] * 999, "printable ASCII"),
    ("channels.groups", [{"name": "a", "size": 1}] * 999, "channel groups a, a, a"),
    ("channels.groups", [{"name": "a"}], "lacks channels.groups.0.size"),
    ("dt_ms", 0, "expected greater than 0"),
    ("dt_ms", "x", "expected a number"),
    ("resting_voltage_mv", "x", "expected a number"),
    ("resting_voltage_mv", math.nan, "expected a finite number"),
    ("resting_voltage_mv", 10**400, "expected a finite number"),
    ("segments", {"type": [["basal"]]}, "segments.type.0"),
    ("input_rate_hz", {"excitatory": 3}, "expected a list"),
    ("input_rate_hz", {"excitatory": [3]}, "2 items"),
    ("recipe", {"learning_rate": math.inf}, "recipe: .*not JSON compliant"),
    ("recipe", [], "expected a table"),
    ("data", [], "data = .*: expected a table"),
    ("metrics", "good", "expected a table"),
    ("versions", {"torch": 2.13}, "expected text"),
    ("seed", True, "expected a whole number"),
    ("reciep", {}, "unknown model card key 'reciep': did you mean 'recipe'"),
]


@pytest.mark.parametrize(("key", "value", "message"), CARD_DAMAGE)
def test_impossible_cards_are_refused(path, key, value, message) -> None:
    def change(_, about: dict) -> None:
        *parts, last = key.split(".")
        place = about["card"]
        for part in parts:
            place = place[part]
        place[last] = value

    rewrite(path, change)
    _expect(path, rf"damaged \(.*{message}.*\); get it again or train again")


@pytest.mark.parametrize("card", ["lstm", [], None, {}, 3])
def test_cards_that_are_no_card_are_refused(path, card) -> None:
    rewrite(path, lambda _, about: about.update(card=card))
    _expect(path, "damaged .model card")


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", '"x"', "[" * 200_000, "9" * 100_000, '{"version": NaN}']
)
def test_metadata_that_hold_no_card_are_refused(path, text) -> None:
    about = r'{"sha256": "' + "0" * 64 + r'", "version": 3, "card": ' + text + "}"
    weights = safetensors.numpy.load(path.read_bytes())
    path.write_bytes(sealed(safetensors.numpy.save(weights, {"surrogate-model": about})))
    _expect(path, "damaged")


def test_every_reader_of_a_damaged_card_says_so_in_one_line(path, toy_data, capsys) -> None:
    rewrite(path, lambda _, about: about["card"].update(data=[]))
    for command in (["report", path], ["evaluate", path, "--data", toy_data]):
        assert main([str(word) for word in command]) == 1
        line = f"Error: {path}: damaged (model card data = []: expected a table)"
        assert line in capsys.readouterr().err
    with pytest.raises(DataError, match="model card data"):
        surrogate.SurrogateNeuron(1, path)
