"""The benchmark of a network times nothing unless both of its networks compute the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest
import torch
from brian2 import defaultclock, ms, prefs
from click.testing import CliRunner

from surrogate.benchmarks import brian_network


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    target, threads = prefs.codegen.target, torch.get_num_threads()
    defaultclock.dt = 0.1 * ms
    yield
    prefs.codegen.target = target
    torch.set_num_threads(threads)


@pytest.mark.parametrize("agree", [True, False])
def test_figures_come_only_behind_parity(agree, monkeypatch, tmp_path) -> None:
    build = brian_network.plain_group

    def other(neurons, model):
        different = copy.deepcopy(model)
        with torch.no_grad():
            different.stack.layers[0].bias_ih_l0 += 0.01
        return build(neurons, different)

    if not agree:
        monkeypatch.setattr(brian_network, "plain_group", other)
    out = tmp_path / "rows.json"
    options = ["--neurons", "2", "--chunks", "1", "--target", "numpy", "--out", str(out)]
    done = CliRunner().invoke(brian_network.main, options)
    if agree:
        assert done.exit_code == 0, done.output
        (row,) = json.loads(out.read_text())["rows"]
        assert row["step_ratio"] > 0
    else:
        assert done.exit_code == 1
        assert "2 neurons: voltages differ" in done.output
        assert "step_seconds" not in done.output
        assert not out.exists()


def test_independent_background_costs_less_inside_the_step() -> None:
    prefs.codegen.target = "numpy"
    found = brian_network.background_seconds(10, 2, brian_network.example_model())
    assert found["background"]["rest_seconds"] < found["PoissonGroup"]["rest_seconds"]
    assert found["ratio"] > 1.5


@pytest.mark.slow
def test_the_step_of_a_standalone_program_is_told_from_the_rest() -> None:
    found = brian_network.standalone_seconds(2, brian_network.example_model())
    assert 0 < found["step_seconds"] < found["rest_seconds"]
