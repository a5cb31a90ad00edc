"""The GPU suite as far as it goes without a GPU: its list of rows, its refusals."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("triton")

from surrogate.benchmarks import gpu_checks, gpu_suite
from surrogate.kernels.triton import configurations
from surrogate.kernels.triton.chips import CHIPS
from surrogate.kernels.triton.training.layout import StackLayout, choose_tiling


def _invoke(*arguments: str):
    return CliRunner().invoke(gpu_suite.main, list(arguments))


def test_suite_holds_all_configurations_and_the_million_neurons() -> None:
    cases = gpu_suite.suite_cases()
    for mode, batch in (("train", 32), ("step", 1000), ("step", 1)):
        specs = [case.spec for case in cases if (case.mode, case.batch) == (mode, batch)]
        assert sorted(map(repr, specs)) == sorted(map(repr, configurations()))
    assert [case.config for case in cases if case.batch == 1 << 20] == ["rnn 32-16-2"]
    assert all(case.device == "cuda" for case in cases)


def test_goals_come_first() -> None:
    train = [case for case in gpu_suite.suite_cases() if case.mode == "train"]
    goals = [gpu_suite.goal(case) is not None for case in train]
    assert goals == sorted(goals, reverse=True)
    assert sum(goals) == 7


def test_dry_run_lists_predictions_and_calls_them_so() -> None:
    result = _invoke("--dry-run", "--chip", "A100")
    assert result.exit_code == 0
    title, _, *rows = result.output.splitlines()
    assert title == "Predicted on A100, not measured:"
    assert len(rows) == 3 * 18 + 1
    assert all(row.endswith(" us predicted") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --out FILE.json"),
        (("--dry-run", "--only", "lstm 7"), "--only 'lstm 7' fits no configuration"),
        (("--out", "x.json"), "torch finds no CUDA GPU here"),
    ],
)
def test_impossible_runs_are_refused_in_one_line(arguments, message, tmp_path, monkeypatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    monkeypatch.chdir(tmp_path)
    result = _invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("chip", ["A100", "H100", "H200"])
@pytest.mark.parametrize("spec", configurations(), ids=lambda spec: spec.name)
def test_what_is_checked_has_the_tiles_of_what_is_timed(spec, chip) -> None:
    layout, processors = StackLayout(spec.arch, spec.recurrent_sizes), CHIPS[chip].processors
    checked, timed = (
        choose_tiling(layout, batch, 1, processors)
        for batch in (gpu_checks.CHECK_SEQUENCES, gpu_suite.BATCH)
    )
    assert checked == timed


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_row_that_fails_does_not_end_the_run(tmp_path, capfd, jobs) -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    from surrogate.benchmarks.problems import Case
    from surrogate.kernels import StackSpec

    spec = StackSpec("rnn", (3, 2), 20)
    out = tmp_path / "gpu.json"
    cases = [Case(spec, "train", 2, 5), Case(spec, "step", 3)]
    found = gpu_suite.run(cases, out, seconds=0.01, minutes=5, jobs=jobs)
    # Nothing runs the kernels here: every check fails, and what did not agree is not timed.
    assert len(found["checks"]) == 5
    assert all("the Triton kernels cannot run" in row["error"] for row in found["checks"])
    assert not any(row["agrees"] for row in found["checks"])
    assert [row["row"] for row in found["missing"]] == ["rnn 3-2 train 2", "rnn 3-2 step 3"]
    assert "Traceback" in capfd.readouterr().err
    assert out.exists()
    assert found["rows"] == []
