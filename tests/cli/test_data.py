"""``surrogate data``: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import json
import pickle
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from surrogate import datasets
from surrogate.cli.data import data
from surrogate.cli.main import main


@pytest.fixture
def source(public_content: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "sim.p"
    path.write_bytes(pickle.dumps(public_content, protocol=2))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["data", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_convert_prints_one_object_and_writes_the_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "with space" / "out.h5"
    code, printed, progress = run(
        capsys, "convert", source, "--out", out, "--split-fractions", "0.4,0.3,0.3", "--json"
    )
    assert code == 0
    assert json.loads(printed) == {
        "path": str(out),
        "n_trials": 3,
        "n_sources": 1,
        "n_reused": 0,
        "n_output_spikes": 9,
        "n_silenced": 0,
        "inexact_trials": [],
        "left_out": [],
        "split_sizes": {"train": 1, "valid": 1, "test": 1},
        "digest": datasets.open(out).digest,
    }
    assert "sim.p: 100%" in progress
    assert "s left" in progress


def test_convert_says_what_it_kept_and_flagged(
    public_content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = public_content["Results"]["listOfSingleSimulationDicts"][2]
    del trial["somaVoltageHighRes"]
    trial["exInputSpikeTimes"] = {1: [0, 5]}
    (tmp_path / "p").write_bytes(pickle.dumps(public_content, protocol=2))
    code, printed, _ = run(capsys, "convert", tmp_path / "p", "--out", tmp_path / "out.h5")
    assert code == 0
    assert "silenced   1 synapses by an event at t = 0" in printed
    assert "inexact    1 trials keep rounded spike times: 2" in printed
    assert "none stored; only --split all works" in printed


def test_a_failed_conversion_says_that_it_can_go_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.p").write_bytes(b"\x80\x02cos\nsystem\nU\x04echo\x85R.")
    code, printed, errors = run(
        capsys, "convert", source, tmp_path / "bad.p", "--out", tmp_path / "out.h5"
    )
    assert code == 1
    assert printed == ""
    assert "out.h5.parts; run the command again" in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"Error: {tmp_path / 'bad.p'}: refused")
    assert "os.system" in last


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert"],
        ["convert", "x.p"],
        ["convert", "x.p", "--out", "y.h5", "--split", "tests"],
        ["convert", "x.p", "--out", "y.h5", "--split-fractions", "a,b"],
        ["convert", "x.p", "--out", "y.h5", "--split-fractions", "0.5,0.6,0.7"],
        ["convert", "x.p", "--out", "y.h5", "--jobs", "0"],
        ["plot", "--trial", "100000"],
        ["plot", "--start", "10", "--stop", "5"],
        ["plot", "--out", "picture.pdf"],
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["info", "validate", "plot"])
def test_a_missing_file_exits_with_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = run(capsys, command, tmp_path / "nope.h5")
    assert code == 1
    assert (
        errors.strip() == f"Error: {tmp_path / 'nope.h5'}: no such file or folder; check the path"
    )


def test_info_has_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run(capsys, "info", "--json")
    found = json.loads(printed)
    assert code == 0
    documented = CliRunner().invoke(data, ["info", "--help"]).output
    listed = documented.split("one object:")[1].split(".")[0]
    assert [key.strip() for key in listed.split(",")] == list(found)
    assert [(group["name"], group["size"]) for group in found["groups"]] == [
        ("excitatory", 639),
        ("inhibitory", 639),
    ]
    assert found["silenced_synapses_per_trial"] == pytest.approx(7, abs=1)


def test_info_for_people_names_split_rates_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    _, printed, _ = run(capsys, "info")
    for part in ("train ", "valid 12", "Hz", "synapses by an event at t = 0", "l5pc-train.h5"):
        assert part in printed


def test_validate_exits_with_1_and_names_what_is_wrong(
    toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(toy_data, tmp_path / "bad.h5"))
    assert run(capsys, "validate", path)[0] == 0
    with h5py.File(path, "r+") as file:
        file["voltage/soma"][3, 7] = np.inf
    code, printed, _ = run(capsys, "validate", path)
    assert code == 1
    assert f"{path}: trial 3: soma voltage is not finite at 1 samples, first at 7 ms" in printed
    code, printed, _ = run(capsys, "validate", path, "--json")
    report = json.loads(printed)
    assert (code, report["valid"], len(report["problems"])) == (1, False, 2)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_draws_a_picture(
    toy_data: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"picture.{ending}"
    code, printed, _ = run(
        capsys, "plot", toy_data, "--trial", 2, "--start", 50, "--stop", 300, "--out", out, "--json"
    )
    assert code == 0
    with datasets.open(toy_data) as opened:
        times = opened.spike_times(2)
    expected = [time for time in times.tolist() if 50 <= time < 300]
    assert json.loads(printed)["output_spikes_ms"] == expected
    if ending == "png":
        assert out.read_bytes().startswith(b"\x89PNG")
    else:
        assert ElementTree.parse(out).getroot().tag.endswith("svg")


@pytest.mark.parametrize("command", ["", "convert", "info", "validate", "plot"])
def test_every_help_has_worked_examples(command: str) -> None:
    shown = CliRunner().invoke(data, [*command.split(), "--help"]).output
    examples = shown.split("Examples:\n")[1].splitlines()
    assert examples[0].strip().startswith("surrogate data")
