"""`surrogate bench`: its options, its rows, and no speed where results disagree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surrogate.benchmarks import bench as core
from surrogate.benchmarks import kernel_table
from surrogate.benchmarks.cases import goal, goal_cases, select_cases
from surrogate.benchmarks.contenders import StackContender, ours
from surrogate.benchmarks.figures import plot_ratios
from surrogate.benchmarks.measure import Peak
from surrogate.benchmarks.peers import candidates
from surrogate.benchmarks.problems import Case, Problem
from surrogate.benchmarks.tables import duration, markdown_table
from surrogate.cli import bench as command
from surrogate.cli import main as frame
from surrogate.errors import DataError, UsageError
from surrogate.kernels import PROVIDERS, StackSpec, default_provider

ROW_KEYS = [
    *("config", "mode", "neurons", "batch", "steps", "provider", "p20", "p50", "p80"),
    *("peer_p50", "ratio", "parity", "floor_share"),
    *("parity_bound", "goal", "ours", "variant", "device"),
]
TINY = ("--arch", "lstm", "--hidden", "7-2", "--seconds", "0.01")


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each test the second in which the machine's best is measured; one test measures it."""
    monkeypatch.setattr(core, "peak", lambda device, threads, before: Peak(1e14, 1e12, 2**25))


@pytest.fixture
def broken_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider that `surrogate bench` measures forgets one part in a thousand."""
    name = default_provider()
    sound = PROVIDERS[name].run

    def broken(*args: Any) -> tuple[Tensor, Tensor]:
        outputs, state = sound(*args)
        return outputs * 0.999, state

    monkeypatch.setattr(PROVIDERS[name], "run", broken)


def test_rows_have_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["bench", *TINY, "--neurons", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["rows", "machine", "versions", "notes"]
    for row in found["rows"]:
        assert list(row) == ROW_KEYS
        assert row["config"] == "lstm 7-2"
        assert (row["mode"], row["neurons"], row["batch"], row["steps"]) == ("step", 2, None, 1)
        assert 0 < row["p20"] <= row["p50"] <= row["p80"]
        assert row["ratio"] == pytest.approx(row["peer_p50"] / row["p50"])
        assert 0 <= row["parity"] <= row["parity_bound"]
        assert 0 < row["floor_share"] < 1
    help_text = (command.bench.help or "").partition("--json prints rows")[2]
    assert [key for key in ROW_KEYS if key not in help_text] == []
    assert found["machine"]["threads"] == 1
    assert found["versions"]["torch"] == torch.__version__
    assert {row["provider"] for row in found["rows"]} >= {"torch.nn", "torch.events"}


def test_training_rows_name_batch_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["bench", *TINY, "--batch", "2", "--steps", "9", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["provider"] for row in rows] == ["torch.nn", "torch.events"]
    assert {(row["mode"], row["neurons"], row["batch"], row["steps"]) for row in rows} == {
        ("train", None, 2, 9)
    }


@pytest.mark.usefixtures("broken_provider")
def test_failed_parity_prints_no_speed_up_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", *TINY, "--mode", "evaluate", "--batch", "2", "--steps", "9"]
    assert frame.main(arguments) == 1
    captured = capsys.readouterr()
    (failed,) = (line for line in captured.out.splitlines() if "torch.nn" in line)
    assert "FAILED: parity 1.0e-03, allowed" in failed
    assert "x1000" not in failed.replace("2x9", "")
    assert not any(unit in failed for unit in (" us", " ms", " s "))
    assert "disagree with their peer" in captured.err


@pytest.mark.usefixtures("broken_provider")
def test_failed_parity_leaves_no_time_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", *TINY, "--mode", "train", "--batch", "2", "--steps", "9", "--json"]
    assert frame.main(arguments) == 1
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["parity"] > row["parity_bound"]
    timed = ("p20", "p50", "p80", "peer_p50", "ratio", "floor_share")
    assert [row[key] for key in timed] == [None] * len(timed)


def test_a_wrong_peer_is_not_timed_but_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates_with_a_wrong_one(name: str, problem: Problem) -> list[Any]:
        makers = candidates(name, problem)
        if name != "torch.nn":
            return makers
        wrong = Problem.draw(problem.case, seed=1)
        return [lambda: StackContender(wrong, name, "torch")]

    monkeypatch.setattr(core, "candidates", candidates_with_a_wrong_one)
    found = core.bench([Case(StackSpec("rnn", (5, 2), 31), "train", 2, 7)], seconds=0.01)
    wrong, right = found["rows"]
    assert (wrong["provider"], wrong["ratio"], wrong["p50"]) == ("torch.nn", None, None)
    assert right["ratio"] > 0
    assert wrong["parity"] > wrong["parity_bound"]


def test_a_peer_that_fails_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(problem: Problem) -> Any:
        raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nat some line")

    def candidates_with_failing_ones(name: str, problem: Problem) -> list[Any]:
        makers = candidates(name, problem)
        first = partial(failing, problem)
        return [first] if name == "torch.nn" else [first, *makers]

    monkeypatch.setattr(core, "candidates", candidates_with_failing_ones)
    found = core.bench([Case(StackSpec("rnn", (5, 2), 31), "train", 2, 7)], seconds=0.01)
    (row,) = found["rows"]
    assert row["provider"] == "torch.events"
    assert row["ratio"] > 0
    assert found["notes"] == [
        f"{name} is left out of rnn 5-2 train 2: CUDNN_STATUS_NOT_SUPPORTED"
        for name in ("torch.nn", "torch.events")
    ]


def test_ours_in_several_ways_has_rows_of_each() -> None:
    def by_torch(problem: Problem) -> Any:
        return StackContender(problem, "ours", "torch")

    def by_nothing(problem: Problem) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    case = Case(StackSpec("rnn", (5, 2), 31), "train", 2, 7)
    found = core.bench([case], seconds=0.01, make_ours=(ours, by_torch, by_nothing))
    assert [(row["ours"], row["provider"]) for row in found["rows"]] == [
        (default_provider("cpu"), "torch.nn"),
        ("torch", "torch.nn"),
        (default_provider("cpu"), "torch.events"),
        ("torch", "torch.events"),
    ]
    assert all(row["ratio"] == row["peer_p50"] / row["p50"] for row in found["rows"])
    (note,) = found["notes"]
    assert note.startswith("by_nothing is left out of rnn 5-2 train 2: operation not permitted")
    with pytest.raises(RuntimeError, match="operation not permitted"):
        core.bench([case], seconds=0.01, make_ours=(by_nothing, ours))


def test_without_onnxruntime_its_row_is_left_out_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert frame.main(["bench", *TINY, "--neurons", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["provider"] for row in found["rows"]] == ["torch.nn", "torch.events"]
    (note,) = found["notes"]
    assert "onnxruntime is not installed" in note
    assert "pip install 'surrogate-neuron[bench]'" in note


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--hidden", "7-x"], "7-x"),
        (["--hidden", "7-3"], "the last must be 2"),
        (["--arch", "tcn"], "unknown arch 'tcn': expected one of rnn, gru, lstm"),
        (["--mode", "train", "--neurons", "4"], "--neurons belongs to --mode step"),
        (["--neurons", "4", "--steps", "4"], "--neurons belongs to --mode step"),
        (["--mode", "step", "--batch", "4"], "--mode step takes no --batch"),
        (["--goals", "--arch", "rnn"], "--goals names its own"),
        (["--batch", "0"], "--batch"),
        (["--neurons", "100000000"], "at most"),
        (["--plot", "ratios.bmp"], "ratios.bmp"),
        (["kernel"], "kernel"),
    ],
)
def test_wrong_usage_exits_2_and_names_it(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(["bench", *arguments]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["bench", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_options_narrow_the_cases() -> None:
    def brief(cases: list[Case]) -> list[tuple[str, str, int, int]]:
        return [(case.config, case.mode, case.batch, case.steps) for case in cases]

    cpu = {"device": "cpu"}
    assert brief(select_cases(**cpu)) == [
        (config, mode, batch, steps)
        for config in ("lstm 256-64-2", "rnn 32-16-2")
        for mode, batch, steps in (("step", 1, 1), ("step", 1000, 1), ("train", 32, 1000))
    ]
    assert brief(select_cases(**cpu, arch="gru", neurons=7)) == [("gru 256-64-2", "step", 7, 1)]
    assert brief(select_cases(**cpu, hidden="8-2", steps=50)) == [("lstm 8-2", "train", 32, 50)]
    assert brief(select_cases(**cpu, arch="rnn", mode="evaluate")) == [
        ("rnn 32-16-2", "evaluate", 32, 1000)
    ]


def test_every_goal_is_measured_by_goals() -> None:
    cases = goal_cases()
    assert len(cases) == 10
    assert all(goal(case, "torch.nn") for case in cases)
    assert sum(goal(case, "onnxruntime") is not None for case in cases) == 2
    assert goal(Case(cases[0].spec, "train", 32, 999), "torch.nn") is None


def test_plot_draws_a_bar_per_row(tmp_path: Path) -> None:
    ratios = {"torch.nn": 98.76, "onnxruntime": 43.21, "torch.events": None}
    rows = [made_row(provider=name, ratio=ratio) for name, ratio in ratios.items()]
    drawn = tmp_path / "new folder" / "ratios.svg"
    plot_ratios(drawn, rows)
    text = drawn.read_text(encoding="utf-8")
    assert text.count("lstm 32-16-2, step N=1") == 2
    assert "98.8x" in text
    assert "43.2x" in text
    assert "torch.events" not in text
    with pytest.raises(UsageError, match="png or"):
        plot_ratios(tmp_path / "ratios", rows)
    (tmp_path / "file").touch()
    with pytest.raises(DataError):
        plot_ratios(tmp_path / "file" / "ratios.png", rows)


def made_row(**changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(ROW_KEYS) | {
        "config": "lstm 32-16-2",
        "mode": "step",
        "neurons": 1,
        "steps": 1,
        "provider": "torch.nn",
        "p50": 2.5e-7,
        "peer_p50": 2.5e-5,
        "ratio": 100.0,
        "parity": 3e-7,
        "parity_bound": 5e-5,
        "floor_share": 0.6,
        "goal": 90.0,
        "ours": "cpu",
        "variant": "nn.LSTMCell",
        "device": "cpu",
    }
    return row | changes


def test_markdown_has_a_line_per_call_and_a_column_per_peer(tmp_path: Path) -> None:
    rows = [
        made_row(),
        made_row(provider="onnxruntime", ratio=35.04, goal=None, parity=4e-7),
        made_row(mode="train", neurons=None, batch=32, steps=1000, p50=None, ratio=None, parity=1),
    ]
    lines = markdown_table(rows).splitlines()
    assert lines[0].startswith("| configuration | call | ours | vs torch.nn | vs onnxruntime |")
    assert lines[2:] == [
        "| lstm 32-16-2 | step N=1 | 250 ns | 100.0x (90x) | 35.0x | 4e-07 | 60% |",
        "| lstm 32-16-2 | train 32x1000 | not timed | FAILED |  | 1e+00 |  |",
    ]
    assert {line.count("|") for line in lines} == {8}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.3456, "12.3 s"), (0.0415, "41.5 ms"), (1e-6, "1 us"), (2.468e-7, "247 ns")],
)
def test_durations_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A recorded GPU run whose rows are those the test puts here before it asks."""
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    class Folder:
        def __truediv__(self, name: str) -> Path:
            path = tmp_path / name
            path.mkdir(exist_ok=True)
            found = {"rows": rows, "gpu": "NVIDIA H200"}
            (path / "gpu-2026-01-01.json").write_text(json.dumps(found), encoding="utf-8")
            (path / "training-2026-01-01.json").write_text("{}", encoding="utf-8")
            return path

    monkeypatch.setattr(kernel_table.resources, "files", lambda name: Folder())
    return rows


def test_kernels_show_what_was_recorded_and_mark_the_rest_as_predicted(
    recorded: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    measured = {"mode": "train", "neurons": None, "batch": 32, "steps": 1000, "device": "cuda"}
    recorded += [
        made_row(**measured, provider="cudnn-fp32", ratio=7.5),
        made_row(**measured, provider="cudnn-tf32", ratio=3.25),
        made_row(**measured | {"steps": 999}, provider="cudnn-fp16", ratio=2.0),
    ]
    assert frame.main(["bench", "kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len({row["config"] for row in rows}) == 18
    own = [row for row in rows if row["source"] == "measured"]
    assert [(row["provider"], row["ratio"]) for row in own] == [
        ("cudnn-fp32", 7.5),
        ("cudnn-tf32", 3.25),
    ]
    predicted = [row for row in rows if row["source"] == "predicted"]
    assert len(predicted) == 17
    assert all(row["p50"] > 0 for row in predicted)
    assert {row["ratio"] for row in predicted} == {None}
    assert frame.main(["bench", "kernels"]) == 0
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if line.startswith("lstm 32-16-2 "))
    assert line.split()[-3:] == ["measured", "3.2x", "7.5x"]
    assert "predicted: by the cost model" in text
    assert frame.main(["bench", "kernels", "--chip", "A100"]) == 0
    assert " measured " not in capsys.readouterr().out


def test_kernels_without_triton_predict_nothing() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; from surrogate.cli.main import main; "
        "sys.exit(main(['bench', 'kernels', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "predicted" not in {row["source"] for row in found["rows"]}
    assert "triton is not installed" in found["notes"][0]


def test_kernels_with_a_failed_parity_exit_1(
    recorded: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.append(made_row(neurons=1000, provider="cudnn-fp32", p50=None, ratio=None))
    assert frame.main(["bench", "kernels", "--mode", "step"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_options_before_kernels_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["bench", "--arch", "rnn", "kernels"]) == 2
    assert "--arch does not belong to surrogate bench kernels" in capsys.readouterr().err
