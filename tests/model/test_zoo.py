"""The models that come with the package: found by name, as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

import surrogate
from helpers.grid import surrogate_command
from surrogate.errors import DataError, UsageError
from surrogate.model.zoo import BUNDLED, bundled_models

NAMES = list(bundled_models())


def test_the_list_says_what_there_is_and_how_good() -> None:
    models = surrogate_command("models", "--json").json["models"]
    assert [model["name"] for model in models] == NAMES
    small = models[NAMES.index("l5pc-small")]
    assert small["parameters"] <= 10_000
    assert small["teacher"]["trials"] > 0
    line = surrogate_command("models").stdout.splitlines()[NAMES.index("l5pc-small")]
    assert line.startswith("l5pc-small ")
    assert f"ROC AUC {small['roc_auc']:.3f}" in line


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_is_small_and_scores_on_trials_it_has_not_seen(name: str) -> None:
    assert bundled_models()[name].stat().st_size < 1 << 20
    result = surrogate.evaluate(name, split="test")
    assert result["roc_auc"] > 0.98
    assert result["event_f1"]["2"] > 0.3
    assert 0.8 < result["rate_ratio"] < 1.25


def test_what_lies_on_disk_comes_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("l5pc-small").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        surrogate.load("l5pc-small")
    with pytest.raises(DataError, match="l5pc-smal"):
        surrogate.load("l5pc-smal")


def test_the_rule_of_a_bundled_model_is_not_rewritten() -> None:
    before = (BUNDLED / "l5pc-small.safetensors").read_bytes()
    with pytest.raises(UsageError, match="copy"):
        surrogate.evaluate("l5pc-small", split="valid", write_rule=True)
    assert (BUNDLED / "l5pc-small.safetensors").read_bytes() == before
