"""The C++ extension: choosing a level, installing without a compiler, sanitized programs."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surrogate.cli.main import main
from surrogate.kernels import SpikeEvents, StackSpec, cpu, run_stack

REPOSITORY = Path(__file__).resolve().parents[3]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
needs_extension = pytest.mark.skipif(
    cpu.load() is None, reason=f"C++ kernels {cpu.why_not()}: see surrogate doctor"
)

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Pretends that some levels were built and that the CPU runs up to ``runs``."""

    def pretend(*built: str, runs: str = "x86-64-v4", broken: str | None = None) -> None:
        modules = {f"{cpu.__name__}._{name.replace('-', '_')}": name for name in built}
        really_import = importlib.import_module

        def find_spec(name: str) -> object | None:
            return modules.get(name)

        def import_module(name: str) -> object:
            if name not in modules:
                return really_import(name)
            if modules[name] == broken:
                raise ImportError("libstdc++.so.6: version `GLIBCXX_9'\nnot found")
            # Executing a level above what the CPU runs would end the process.
            assert cpu.LEVELS.index(modules[name]) >= cpu.LEVELS.index(runs), "illegal instruction"
            return SimpleNamespace(name=modules[name], isa=lambda: runs)

        monkeypatch.setattr(cpu.importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(cpu.importlib, "import_module", import_module)
        cpu._choice.cache_clear()

    monkeypatch.delenv("SURROGATE_CPU_LEVEL", raising=False)
    yield pretend
    monkeypatch.undo()
    cpu._choice.cache_clear()


@pytest.mark.parametrize(
    ("built", "runs", "chosen"),
    [
        (("x86-64", "x86-64-v3", "x86-64-v4"), "x86-64-v4", "x86-64-v4"),
        (("x86-64", "x86-64-v3", "x86-64-v4"), "x86-64-v3", "x86-64-v3"),
        (("x86-64", "x86-64-v3", "x86-64-v4"), "x86-64", "x86-64"),
        (("x86-64", "x86-64-v3"), "x86-64-v4", "x86-64-v3"),
        (("arm64",), "arm64", "arm64"),
        (("generic",), "generic", "generic"),
    ],
)
def test_the_fastest_level_that_was_built_and_runs_is_chosen(
    built: tuple[str, ...], runs: str, chosen: str, machine: Machine
) -> None:
    machine(*built, runs=runs)
    assert cpu.load().name == cpu.level() == chosen
    assert cpu.why_not() is None


def test_without_an_extension_there_is_none_and_a_reason(machine: Machine) -> None:
    machine()
    assert (cpu.load(), cpu.level(), cpu.why_not()) == (None, None, "not built")


@pytest.mark.parametrize("broken", ["x86-64", "x86-64-v4"])
def test_a_broken_extension_is_none_and_the_reason_is_one_line(
    broken: str, machine: Machine
) -> None:
    machine("x86-64", "x86-64-v4", broken=broken)
    assert (cpu.load(), cpu.level()) == (None, None)
    assert cpu.why_not() == ("not importable (libstdc++.so.6: version `GLIBCXX_9' not found)")


def test_a_forced_level_is_taken(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURROGATE_CPU_LEVEL", "x86-64-v3")
    machine("x86-64", "x86-64-v3", "x86-64-v4")
    assert cpu.load().name == cpu.level() == "x86-64-v3"


@pytest.mark.parametrize(
    ("forced", "built", "message"),
    [
        ("avx2", ("x86-64", "x86-64-v3"), "avx2: no such level; .*: x86-64-v3, x86-64$"),
        ("x86-64-v3", ("x86-64",), "x86-64-v3: was not built; .*: x86-64$"),
        ("x86-64-v4", ("x86-64", "x86-64-v4"), "x86-64-v4: this CPU does not run it; .*: x86-64$"),
        ("x86-64", (), "x86-64: was not built; .*: none, for no level was built$"),
    ],
)
def test_a_forced_level_that_cannot_be_had_names_the_choices(
    forced: str,
    built: tuple[str, ...],
    message: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SURROGATE_CPU_LEVEL", forced)
    machine(*built, runs="x86-64-v3")
    with pytest.raises(ValueError, match=message):
        cpu.load()


def test_include_dir_holds_every_header() -> None:
    headers = {path.name for path in (REPOSITORY / "kernels" / "cpu").glob("*.h")}
    assert "stack.h" in headers
    assert headers == {path.name for path in cpu.include_dir().glob("*.h")}


@needs_extension
def test_the_built_extension_knows_the_level_of_this_cpu() -> None:
    best = cpu.load().isa()
    assert best in cpu.LEVELS
    assert cpu.LEVELS.index(cpu.level()) >= cpu.LEVELS.index(best)


@needs_extension
def test_loading_the_extension_leaves_denormal_numbers_alone() -> None:
    # -ffast-math at link time would set flush-to-zero for the whole process.
    code = (
        "import numpy as np; from surrogate.kernels import cpu; assert cpu.load(); "
        "assert np.float32(1e-40) * np.float32(0.5) > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_extension
def test_the_extension_keeps_nan_a_nan() -> None:
    spec = StackSpec("lstm", (5, 2), input_size=3)
    weights = {name: torch.full(shape, 0.1) for name, shape in spec.parameter_shapes().items()}
    weights["layers.0.bias_hh_l0"][7] = torch.nan
    silent = SpikeEvents.from_dense(torch.zeros(1, 2, 3))
    outputs, _ = run_stack(spec, weights, silent, provider="cpu")
    assert outputs.isnan().all()


def _doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surrogate.cli.main", "doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@needs_extension
def test_doctor_says_which_level_serves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["provider"] == "cpu"
    assert report["kernels"] == {"cpu_level": cpu.level(), "reason": None}
    assert main(["doctor"]) == 0
    assert f"cpu (C++, {cpu.level()})" in capsys.readouterr().out


def test_doctor_says_why_torch_serves_and_what_helps(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["provider"] == "torch"
    assert report["kernels"] == {"cpu_level": None, "reason": "not built"}
    assert "install g++ or clang++, then reinstall" in " ".join(report["warnings"])


def test_doctor_names_a_level_that_cannot_be_had() -> None:
    done = _doctor(SURROGATE_CPU_LEVEL="mmx")
    assert done.returncode == 1
    assert "problem: SURROGATE_CPU_LEVEL=mmx: no such level" in done.stdout
    assert done.stderr == ""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without anything built, in a path with a space."""
    target = tmp_path_factory.mktemp("copy") / "the source"
    built = (".*", "build", "dist", "runs", "*.egg-info", "*.so", "*.pyd", "__pycache__")
    return shutil.copytree(REPOSITORY, target, ignore=shutil.ignore_patterns(*built))


def _install(source: Path, target: Path, **environment: str) -> str:
    """Install ``source`` into the folder ``target``, and return pip's log."""
    shutil.rmtree(source / "build", ignore_errors=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", str(target), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _run_installed(target: Path, *arguments: str) -> dict[str, Any]:
    """What ``surrogate ... --json`` prints when run from the package in ``target``."""
    done = subprocess.run(
        [sys.executable, "-m", "surrogate.cli.main", *arguments, "--json"],
        cwd=target,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_without_a_compiler_the_package_installs_and_trains(source: Path, tmp_path: Path) -> None:
    log = _install(source, tmp_path, CC="false", CXX="false")
    assert log.count("the C++ kernels were not built") == 1
    report = _run_installed(tmp_path, "doctor")
    assert Path(report["sample"]["path"]).is_relative_to(tmp_path)
    assert report["provider"] == "torch"
    assert report["kernels"] == {"cpu_level": None, "reason": "not built"}
    assert any("install g++" in warning for warning in report["warnings"])

    small = [*("--set", "windows_per_epoch=8"), *("--set", "batch_size=4")]
    small += [*("--set", "window_ms=100"), *("--set", "burn_in_ms=20")]
    result = _run_installed(
        *(tmp_path, "train", "--arch", "rnn", "--hidden", "6-2", "--epochs", "1"),
        *("--out", "run", *small),
    )
    assert result["epochs"] == 1
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 0


def _compiler(folder: Path, refuses: str, *flags: str) -> str:
    """A compiler that does not know flags with ``refuses`` in them and always adds ``flags``."""
    script = folder / "a compiler"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{refuses}*) echo "unknown option" >&2; exit 1;; esac\n'
        f'exec {COMPILER} "$@" {shlex.join(flags)}\n'
    )
    script.chmod(0o755)
    return shlex.quote(str(script))


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="x86-64 has levels")
def test_a_level_that_the_compiler_does_not_know_is_left_out(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    log = _install(source, target, CXX=_compiler(tmp_path, refuses="avx512"))
    assert '"surrogate.kernels.cpu._x86_64_v4" failed' in log
    built = {path.name.partition(".")[0] for path in target.glob("surrogate/kernels/cpu/_x86*")}
    assert built == {"_x86_64", "_x86_64_v3"}
    assert _run_installed(target, "doctor")["kernels"]["cpu_level"] in {"x86-64", "x86-64-v3"}


@pytest.mark.slow
def test_an_install_without_extension_is_asked_for_and_gotten(source: Path, tmp_path: Path) -> None:
    _install(source, tmp_path, SURROGATE_NO_EXTENSION="1")
    assert list(tmp_path.glob("surrogate/kernels/cpu/_*.so")) == []
    assert list(tmp_path.glob("surrogate/kernels/cpu/stack.h")) != []


# Uninitialised memory holds NaN, so that a number read before it is written shows.
POISON = {"ASAN_OPTIONS": "max_malloc_fill_size=1000000000:malloc_fill_byte=255"}
WARNINGS = ["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def _compile(program: Path, flags: list[str], *sources: Path) -> None:
    assert COMPILER is not None
    done = subprocess.run(
        [COMPILER, *WARNINGS, *flags, f"-I{cpu.include_dir()}", *sources, "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "flags",
    [
        SANITIZERS,
        [*SANITIZERS, "-march=native"],
        [*SANITIZERS, "-DSURROGATE_SCALAR"],
        ["-O3", "-ffast-math", "-march=native"],
    ],
    ids=["sanitized", "sanitized-native", "sanitized-scalar", "as-brian2-compiles"],
)
@pytest.mark.parametrize("name", ["stack_test", "training_test"])
def test_the_headers_compute_what_a_scalar_program_does(
    name: str, flags: list[str], tmp_path: Path
) -> None:
    program = tmp_path / name
    _compile(program, flags, REPOSITORY / "tests" / "kernels" / "cpu" / "cpp" / f"{name}.cpp")
    done = subprocess.run(
        [program], capture_output=True, text=True, check=False, env=os.environ | POISON
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a linker with --wrap")
@needs_compiler
def test_a_step_works_after_one_that_ran_out_of_memory(tmp_path: Path) -> None:
    program = tmp_path / "memory_test"
    source = REPOSITORY / "tests" / "kernels" / "cpu" / "cpp" / "memory_test.cpp"
    _compile(program, ["-O1", "-march=native", "-Wl,--wrap=malloc"], source)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@needs_compiler
def test_the_python_module_is_clean_under_sanitizers(source: Path, tmp_path: Path) -> None:
    assert COMPILER is not None
    runtimes = [
        subprocess.check_output([COMPILER, f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip(f"{COMPILER} has no sanitizers to load beside Python")
    target = tmp_path / "installed"
    _install(source, target, CXX=_compiler(tmp_path, "avx", *SANITIZERS))
    names = ["test_providers.py", "test_stepper.py", "test_branches.py"]
    for name in ("conftest.py", *(f"kernels/{name}" for name in names)):
        shutil.copy(REPOSITORY / "tests" / name, tmp_path)
    shutil.copytree(REPOSITORY / "tests" / "helpers", tmp_path / "helpers")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-k", "cpu or test_stepper", f"--rootdir={tmp_path}", *names),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": str(target),
            "OMP_NUM_THREADS": "1",
            "LD_PRELOAD": " ".join(runtimes),
            # What Python itself never frees is not looked for.
            "ASAN_OPTIONS": f"detect_leaks=0:{POISON['ASAN_OPTIONS']}",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


@pytest.mark.slow
@needs_compiler
def test_the_headers_can_be_in_several_objects_of_one_program(tmp_path: Path) -> None:
    headers = sorted(path.name for path in cpu.include_dir().glob("*.h"))
    first, second = tmp_path / "first.cpp", tmp_path / "second.cpp"
    second.write_text("".join(f'#include "{name}"\n' for name in headers))
    first.write_text(second.read_text() + "int main() {}\n")
    _compile(tmp_path / "program", ["-O0"], first, second)
