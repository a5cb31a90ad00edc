"""Wrong types never get past a class that is validated, and one line says which value it was."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from surrogate.errors import UsageError
from surrogate.kernels import StackSpec
from surrogate.validated import validate, validated


@validated("choice")
@dataclass(frozen=True)
class Choice:
    """A class as recipes are."""

    rate: Annotated[float, Field(ge=0, le=10)]
    epochs: Annotated[int, Field(ge=1, le=10**6)]
    rule: Literal["nll", "auc"] = "nll"
    clip: Annotated[float, Field(allow_inf_nan=True)] = math.inf

    def __post_init__(self) -> None:
        if self.rate > self.epochs:
            raise UsageError(f"choice rate = {self.rate} exceeds epochs = {self.epochs}")


@validated("record")
@dataclass(frozen=True)
class Record:
    spec: StackSpec
    choice: Choice
    names: tuple[str, ...] = ()


class Named(Record):
    """A class below a validated one, as experiments are below runs."""


RECORD = Named(StackSpec("gru", (8, 2), 20), Choice(0.1, 3), ("a", "b"))
PARSED = json.loads(json.dumps(dataclasses.asdict(RECORD)))

WRONG = {
    "text for a number": ({"rate": "1"}, "choice rate = '1': expected a number"),
    "a truth value for a number": ({"rate": True}, "choice rate = True: expected a number"),
    "a truth value for an integer": ({"epochs": True}, "epochs = True: expected a whole number"),
    "a fraction for an integer": ({"epochs": 2.0}, "epochs = 2.0: expected a whole number"),
    "NaN": ({"rate": math.nan}, "choice rate = nan: expected a finite number"),
    "infinity": ({"rate": math.inf}, "choice rate = inf: expected a finite number"),
    "too large for a float": ({"rate": 10**400}, "rate = 10000000...000000000: expected a "),
    "too large to be written": ({"epochs": 16**9999}, "4,300 digits|a huge number: expected"),
    "out of range": ({"rate": 11}, "choice rate = 11: expected at most 10"),
    "no choice": ({"rule": "roc"}, "choice rule = 'roc': expected 'nll' or 'auc'"),
    "a long text": ({"rule": "x" * 10**6}, r"choice rule = 'xxx[x.]*': expected 'nll' or 'auc'"),
    "nothing": ({"epochs": None}, "choice epochs = None: expected a whole number"),
    "an object": ({"epochs": {"a": [[[1]]]}}, "epochs = {'a': .*}: expected a whole number"),
    "an unknown key": ({"epoch": 3}, "unknown choice key 'epoch': did you mean 'epochs'?"),
    "a strange key": ({"zzz": 3}, "unknown choice key 'zzz': known: rate, epochs, rule, clip"),
    "values that contradict": ({"rate": 9}, "choice rate = 9.0 exceeds epochs = 3"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "construct", [lambda v: Choice(**v), lambda v: validate(Choice, v, "choice")]
)
def test_a_wrong_value_is_one_line(construct, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        construct({"rate": 0.1, "epochs": 3} | change)
    assert len(str(error.value)) <= 300


def test_numpy_scalars_are_numbers_however_they_arrive() -> None:
    expected = Choice(0.5, 3)
    assert Choice(np.float32(0.5), np.int64(3)) == expected
    assert dataclasses.replace(expected, epochs=np.uint8(3)) == expected
    values = {"rate": np.float64(0.5), "epochs": np.int16(3), "rule": np.str_("nll")}
    assert validate(Choice, values, "choice") == expected
    assert {type(value) for value in dataclasses.astuple(expected)} == {float, int, str}


def test_what_json_gave_is_the_object_that_was_written() -> None:
    read = validate(Named, PARSED, "run.json")
    assert read == RECORD
    assert type(read) is Named


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("choice", "rate"), "x", "run.json choice.rate = 'x': expected a number"),
        (("spec", "hidden_sizes", 0), 8.0, r"run.json spec.hidden_sizes.0 = 8.0: expected a whole"),
        (("spec", "arch"), "cnn", "run.json spec: unknown arch 'cnn': expected one of rnn"),
        (("spec",), [], r"run.json spec = \[\]: expected a table"),
        (("choice", "rte"), 1, "unknown run.json key 'choice.rte'"),
        (("names",), "ab", "run.json names = 'ab': expected a list"),
    ],
)
def test_a_wrong_value_deep_inside_is_named_by_its_path(path, value, message) -> None:
    damaged = json.loads(json.dumps(PARSED))
    inner = damaged
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(UsageError, match=message):
        validate(Named, damaged, "run.json")


def test_what_is_lacking_or_nested_too_deeply_is_said() -> None:
    with pytest.raises(UsageError, match="choice lacks epochs"):
        Choice(0.1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"run.json lacks spec"):
        validate(Named, {}, "run.json")
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UsageError, match=r"run.json: nested too deeply"):
        validate(Named, nested, "run.json")


def test_every_float_is_read_as_it_was_written() -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    numbers = [one for one in bits.view(np.float64).tolist() if math.isfinite(one)]
    assert validate(list[float], json.loads(json.dumps(numbers)), "numbers") == numbers
