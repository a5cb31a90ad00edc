"""The GPU suite's way from checks to results, on tiny stacks, interpreted and on the CPU."""

from __future__ import annotations

import json

import pytest

from surrogate.benchmarks import bench, gpu_checks, gpu_suite
from surrogate.benchmarks.problems import Case
from surrogate.kernels import StackSpec

SPEC = StackSpec("gru", (3, 2), 20)
CASES = [Case(SPEC, "train", 2, 5), Case(SPEC, "step", 3)]


@pytest.fixture(autouse=True)
def _short_checks(monkeypatch) -> None:
    monkeypatch.setattr(gpu_checks, "CHECK_SEQUENCES", 2)
    monkeypatch.setattr(gpu_checks, "CHECK_NEURONS", 2)
    monkeypatch.setattr(gpu_checks, "CHECK_STEPS", 2)


def test_every_kernel_is_held_against_the_reference() -> None:
    rows = gpu_checks.check(StackSpec("lstm", (3, 2, 2), 20), "cpu")
    assert [row["kernel"] for row in rows] == [
        "training",
        "step as for 1",
        "step as for 1000",
        "step as for 1048576",
        "step of counts",
        "step with a linear head",
    ]
    assert all(row["agrees"] and row["error"] is None for row in rows)
    assert all(0 < row["parity"] < row["bound"] for row in rows)


def test_results_are_written_row_by_row(tmp_path) -> None:
    out, lines = tmp_path / "gpu results.json", []
    written = []

    def say(line: str) -> None:
        lines.append(line)
        written.append(len(json.loads(out.read_text())["rows"]) if out.exists() else 0)

    found = gpu_suite.run(CASES, out, seconds=0.01, minutes=5, say=say)
    assert found["complete"], found["missing"]
    assert json.loads(out.read_text()) == found
    assert {row["mode"] for row in found["rows"]} == {"train", "step"}
    steps = [row for row in found["rows"] if row["mode"] == "step"]
    assert all(row["neuron_steps_per_s"] == 3 / row["p50"] for row in steps)
    assert written == sorted(written)
    assert written[-1] > 0
    assert lines[0].startswith("gru 3-2 check: training ")


def test_what_disagrees_with_the_reference_is_not_timed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_checks, "PARITY_BOUNDS", {"float32": {"train": 0.0, "step": 0.0}})
    found = gpu_suite.run(CASES, tmp_path / "gpu.json", seconds=0.01, minutes=5)
    assert not any(row["agrees"] for row in found["checks"])
    assert found["rows"] == []
    assert [row["row"] for row in found["missing"]] == ["gru 3-2 train 2", "gru 3-2 step 3"]
    assert "not found to agree" in found["missing"][0]["reason"]


def test_one_kernel_that_fails_leaves_the_others(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(gpu_checks, "_step_values", fail)
    found = gpu_suite.run(CASES, tmp_path / "gpu.json", seconds=0.01, minutes=5)
    agreeing = [row["kernel"] for row in found["checks"] if row["agrees"]]
    assert agreeing == ["training"]
    assert {row["mode"] for row in found["rows"]} == {"train"}
    assert [row["row"] for row in found["missing"]] == ["gru 3-2 step 3"]


def test_ours_is_timed_alone_where_no_peer_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "peer_names", lambda case: ())
    found = gpu_suite.run(CASES[1:], tmp_path / "gpu.json", seconds=0.01, minutes=5)
    (row,) = found["rows"]
    assert (row["provider"], row["ratio"], row["goal"]) == (None, None, None)
    assert 0 < row["p20"] <= row["p50"] <= row["p80"]
    assert row["neuron_steps_per_s"] == 3 / row["p50"]


def test_nothing_is_begun_after_cuda_broke_down(tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(gpu_suite, "bench", fail)
    monkeypatch.setattr(gpu_suite, "_broken_by", lambda label: f"CUDA broke down in: {label}")
    found = gpu_suite.run(CASES, tmp_path / "gpu.json", seconds=0.01, minutes=5)
    assert [row["reason"] for row in found["missing"]] == [
        "RuntimeError: unspecified launch failure",
        "CUDA broke down in: gru 3-2 train 2",
    ]


def test_rows_without_time_are_listed_as_missing(tmp_path) -> None:
    found = gpu_suite.run(CASES, tmp_path / "gpu.json", seconds=0.01, minutes=0)
    assert not found["complete"]
    assert [row["reason"] for row in found["missing"]] == ["0 minutes were over"] * 3


def test_parallel_runs_are_a_row_of_their_own(tmp_path, monkeypatch) -> None:
    row = {"config": "gru 3-2", "parity": 0.0, "ratio": 3.0}
    asked = []
    monkeypatch.setattr(gpu_suite, "measure_parallel", lambda *given: asked.append(given) or row)
    found = gpu_suite.run(
        CASES[:1], tmp_path / "gpu.json", seconds=0.01, minutes=5, parallel=[SPEC]
    )
    assert asked == [("gru", "3-2", 12, 8, "cpu")]
    assert json.loads((tmp_path / "gpu.json").read_text())["parallel_training"] == [row]
    assert found["complete"]
