"""The command line as a whole: help, errors, exit codes, JSON, doctor."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

import surrogate
from surrogate import machine
from surrogate.cli import _packages, doctor
from surrogate.cli import main as frame
from surrogate.cli._common import emit, json_option, json_text
from surrogate.errors import DataError, UsageError
from surrogate.kernels import default_provider


def commands(
    group: click.Group = frame.cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """Replaces the commands by one, ``fail``, that raises whatever the test puts here."""
    box: dict[str, BaseException] = {}

    @click.command()
    @json_option
    def fail(as_json: bool) -> None:
        raise box["error"]

    monkeypatch.setattr(frame, "COMMANDS", {"fail": ("tests", "fail", "Fails.")})
    monkeypatch.setattr(frame.LazyGroup, "get_command", lambda self, ctx, name: fail)
    return box


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "surrogate.cli.main", *args],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from surrogate.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'numpy', 'h5py', 'sklearn', 'matplotlib', 'brian2'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (_, _, line) in frame.COMMANDS.items():
        assert f"{name} " in done.stdout
        assert line in done.stdout


def test_importing_every_command_imports_nothing_heavy() -> None:
    modules = ", ".join(module for module, _, _ in frame.COMMANDS.values())
    code = (
        f"import sys, {modules}; "
        "heavy = {'torch', 'h5py', 'sklearn', 'matplotlib', 'brian2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_worked_examples_and_matches_the_listing(name: str) -> None:
    command = COMMANDS[name]
    with click.Context(command) as context:
        text = command.get_help(context)
    assert "Examples:" in text
    assert f"  surrogate {name}" in text


@pytest.mark.parametrize(
    "name", sorted(n for n, command in COMMANDS.items() if not isinstance(command, click.Group))
)
def test_command_takes_json_and_explains_every_option(name: str) -> None:
    options = [p for p in COMMANDS[name].params if isinstance(p, click.Option)]
    assert "--json" in {flag for option in options for flag in option.opts}
    assert [option.name for option in options if not option.help] == []


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["--version"]) == 0
    assert capsys.readouterr().out == f"surrogate, version {surrogate.__version__}\n"


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["evalute"], "Did you mean 'evaluate'?"),
        (["xyz"], f"Choose from {', '.join(frame.COMMANDS)}."),
        (["doctor", "--jsno"], "--json"),
    ],
)
def test_misspelt_word_exits_2_with_a_suggestion(
    args: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(args) == 2
    captured = capsys.readouterr()
    assert hint in captured.err
    assert captured.out == ""


def test_unknown_command_in_a_real_process_exits_2() -> None:
    done = run("evalute")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (
            DataError("x.h5: is empty; convert it again"),
            1,
            "Error: x.h5: is empty; convert it again",
        ),
        (UsageError("arch 'lstn': expected lstm"), 2, "Error: arch 'lstn': expected lstm"),
        (MemoryError(), 1, "Error: out of memory; use smaller batches or fewer jobs"),
        (KeyboardInterrupt(), 1, "Interrupted"),
        (
            PermissionError(13, "Permission denied", "/runs/x"),
            1,
            "Error: /runs/x: permission denied; choose a folder you may write to",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failure_is_one_line_on_stderr(
    error: BaseException,
    exit_code: int,
    line: str,
    failing: dict[str, BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing["error"] = error
    assert frame.main(["fail"]) == exit_code
    captured = capsys.readouterr()
    assert captured.err.strip() == line
    assert captured.out == ""


def test_failure_with_json_is_an_object_on_stdout(
    failing: dict[str, BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing["error"] = DataError("x.h5: is empty")
    assert frame.main(["fail", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": {"message": "x.h5: is empty", "exit_code": 1}}
    assert captured.err == "Error: x.h5: is empty\n"


def test_debug_variable_lets_the_traceback_through(
    failing: dict[str, BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURROGATE_DEBUG", "1")
    failing["error"] = DataError("x.h5: is empty")
    with pytest.raises(DataError):
        frame.main(["fail"])


def test_programming_error_keeps_its_traceback(failing: dict[str, BaseException]) -> None:
    failing["error"] = KeyError("a bug")
    with pytest.raises(KeyError):
        frame.main(["fail"])


def test_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "surrogate.cli.main", "doctor", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=60)


def test_json_text_is_valid_for_what_python_would_print_otherwise() -> None:
    text = json_text(
        {
            "z": np.float32(0.5),
            "nan": math.nan,
            "infinite": [np.float64("inf"), -math.inf],
            "array": np.array([[1, 2], [3, 4]]),
            "path": Path("runs/µ"),
            0.01: (np.int64(3), np.bool_(True), None),
        }
    )
    assert text == (
        '{"z": 0.5, "nan": null, "infinite": [null, null], "array": [[1, 2], [3, 4]], '
        '"path": "runs/\\u00b5", "0.01": [3, true, null]}'
    )


def test_emit_prints_one_or_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    emit(False, {"a": 1}, "for people")
    emit(True, {"a": 1}, "for people")
    assert capsys.readouterr().out == 'for people\n{"a": 1}\n'


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["problems"] == []
    assert report["packages"]["torch"]
    assert report["cpu"]["usable_cores"] >= 1
    assert report["sample"]["trials"] > 0
    assert report["provider"] == default_provider()


def test_doctor_documents_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    frame.main(["doctor", "--json"])
    text = doctor.doctor.help or ""
    listed = text.partition("JSON keys:")[2].partition(".")[0].replace(",", " ").split()
    assert listed == list(json.loads(capsys.readouterr().out))


def test_doctor_fails_and_names_the_cure_when_the_main_job_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = _packages.package_versions() | {"h5py": None, "brian2": None}
    monkeypatch.setattr(_packages, "package_versions", lambda: versions)
    assert frame.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "problem: h5py is not installed; python -m pip install 'h5py" in out
    assert "warning: brian2 is not installed; python -m pip install 'brian2" in out


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        ({"brian2": "2.9.0", "numpy": "2.4.0", "pyparsing": "3.3.3"}, {"numpy"}),
        ({"brian2": "2.9.0", "numpy": "2.3.5", "pyparsing": "3.2.4"}, {"pyparsing"}),
        ({"brian2": "2.9.0", "numpy": "2.3.5", "pyparsing": "3.3.3"}, set()),
        ({"brian2": "2.10.1", "numpy": "2.4.0", "pyparsing": "3.2.4"}, set()),
        ({"brian2": None, "numpy": "2.4.0", "pyparsing": "3.2.4"}, set()),
    ],
)
def test_known_bad_combinations_are_named(versions: dict[str, str | None], named: set[str]) -> None:
    conflicts = _packages.brian2_conflicts(versions)
    assert set(conflicts) == named
    assert all("pip install" in line for line in conflicts.values())


def test_too_old_a_package_is_a_problem() -> None:
    problems = _packages.package_problems(_packages.package_versions() | {"torch": "2.5.1"})
    assert "torch 2.5.1 is installed, but >=2.6 is needed" in problems["torch"]


def test_doctor_and_the_kernels_find_the_same_instruction_sets() -> None:
    baseline = pytest.importorskip("surrogate.kernels.cpu._x86_64")
    level = machine.cpu()["level"]
    # No kernel is built for v2, so to them it is the baseline.
    assert baseline.isa() == ("x86-64" if level == "x86-64-v2" else level)
