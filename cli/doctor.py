"""``surrogate doctor``: what this machine offers and lacks."""

from __future__ import annotations

import importlib
import platform
from typing import Any

import click

import surrogate
from surrogate import machine
from surrogate.cli import _packages
from surrogate.cli._common import emit, json_option
from surrogate.errors import SurrogateError

__all__ = ["doctor"]

# Training and evaluating need these to import; brian2 and triton are for other jobs.
MAIN_JOB = {
    "torch": "torch",
    "numpy": "numpy",
    "h5py": "h5py",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
}


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show versions, CPU, GPU and compiler, and name what is wrong with its cure.

    Exits with 0 if a surrogate can be trained and evaluated here, with 1 if not. Warnings concern
    what only makes it slower or what other jobs need: C++ kernels, Brian2, Triton, a compiler.
    The C++ kernels are those of the fastest instruction-set level that was built and that the CPU
    runs; SURROGATE_CPU_LEVEL=x86-64-v3 forces another.

    \b
    JSON keys: ok, problems, warnings, surrogate, python, platform, packages,
    cpu, gpus, triton, compiler, brian2, sample, provider, kernels.

    \b
    Examples:
      surrogate doctor
      surrogate doctor --json
    """
    report = _examine()
    emit(as_json, report, _text(report))
    ctx.exit(0 if report["ok"] else 1)


def _examine() -> dict[str, Any]:
    versions = _packages.package_versions()
    conflicts = _packages.brian2_conflicts(versions)
    problems: list[str] = []
    warnings = list(conflicts.values())
    for package, message in _packages.package_problems(versions).items():
        if package not in conflicts:
            (problems if package in MAIN_JOB else warnings).append(message)
    for package, module in MAIN_JOB.items():
        broken = _import_error(module) if versions.get(package) else None
        if broken:
            cure = f"python -m pip install --force-reinstall {package}"
            problems.append(f"{package} cannot be imported ({broken}); {cure}")

    torch = None if _import_error("torch") else importlib.import_module("torch")
    cpu = machine.cpu()
    if torch is not None:
        cpu["torch_threads"] = torch.get_num_threads()
        cpu["torch_capability"] = torch.backends.cpu.get_cpu_capability()
    gpus = machine.gpus() if torch else []
    compiler = machine.compiler()
    if compiler is None:
        warnings.append(
            "no C++ compiler found, so Brian2 falls back to its slow numpy target; "
            "install g++ or clang++, or set CXX"
        )
    sample = _sample()
    if sample["error"]:
        problems.append(sample["error"])
    kernels = _kernels()
    if kernels["error"]:
        problems.append(kernels["error"])
    elif kernels["reason"]:
        warnings.append(
            f"C++ kernels {kernels['reason']}: torch computes instead, which is slower; install "
            "g++ or clang++, then reinstall surrogate-neuron (pip install -v shows the build)"
        )
    return {
        "ok": not problems,
        "problems": problems,
        "warnings": warnings,
        "surrogate": surrogate.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "cpu": cpu,
        "gpus": gpus,
        "triton": _triton(versions.get("triton"), gpus),
        "compiler": compiler,
        "brian2": {
            "version": versions.get("brian2"),
            "codegen_target": _codegen_target(versions, compiler),
        },
        "sample": sample,
        "provider": kernels["provider"],
        "kernels": {key: kernels[key] for key in ("cpu_level", "reason")},
    }


def _import_error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError) as error:  # a library built for another machine
        return " ".join(str(error).split())
    return None


def _triton(version: str | None, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    reason = None
    if version is None:
        reason = "not installed"
    elif not gpus:
        reason = "no CUDA GPU"
    return {"version": version, "usable": reason is None, "reason": reason}


def _codegen_target(versions: dict[str, str | None], compiler: object) -> str | None:
    """The target that Brian2's default, ``auto``, chooses; importing Brian2 takes seconds."""
    if versions.get("brian2") is None:
        return None
    return "cython" if versions.get("cython") and compiler else "numpy"


def _sample() -> dict[str, Any]:
    try:
        from surrogate import datasets

        with datasets.open() as data:
            data[data.n_trials - 1]  # opening reads no trial
            return {"path": data.path, "trials": data.n_trials, "error": None}
    except (SurrogateError, ImportError) as error:
        return {"path": None, "trials": None, "error": f"bundled sample: {error}"}


def _kernels() -> dict[str, Any]:
    found: dict[str, Any] = {"provider": None, "cpu_level": None, "reason": None, "error": None}
    try:
        from surrogate.kernels import cpu, default_provider

        found |= {"cpu_level": cpu.level(), "reason": cpu.why_not()}
        return found | {"provider": default_provider()}
    except ImportError:  # without torch, which is reported by itself
        return found
    except ValueError as error:  # SURROGATE_CPU_LEVEL names a level that is not available
        return found | {"error": str(error)}


def _provider_text(report: dict[str, Any]) -> str:
    if report["provider"] == "cpu":
        return f"cpu (C++, {report['kernels']['cpu_level']})"
    return report["provider"] or "none"


def _text(report: dict[str, Any]) -> str:
    cpu, triton, compiler = report["cpu"], report["triton"], report["compiler"]
    sample = report["sample"]
    torch_use = "nothing: it cannot be imported"
    if "torch_threads" in cpu:
        torch_use = f"{cpu['torch_capability']}, {cpu['torch_threads']} threads"
    gpus = [f"{g['name']}, {g['memory_gib']} GiB" for g in report["gpus"]] or ["none"]
    rows = [
        ("surrogate", report["surrogate"]),
        ("python", f"{report['python']} on {report['platform']}"),
        *((name, version or "not installed") for name, version in report["packages"].items()),
        ("CPU", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['logical_cores']} cores usable"),
        ("", f"{cpu['level'] or cpu['architecture']}: {' '.join(cpu['instruction_sets'])}"),
        ("torch uses", torch_use),
        ("GPU", "; ".join(gpus)),
        ("Triton usable", "yes" if triton["usable"] else f"no: {triton['reason']}"),
        ("compiler", f"{compiler['version']} ({compiler['path']})" if compiler else "none found"),
        ("Brian2 target", report["brian2"]["codegen_target"] or "Brian2 is not installed"),
        ("sample", sample["error"] or f"{sample['trials']} trials, {sample['path']}"),
        ("provider", _provider_text(report)),
    ]
    lines = [f"{name:<15} {value}" for name, value in rows]
    lines += [f"warning: {line}" for line in report["warnings"]]
    lines += [f"problem: {line}" for line in report["problems"]]
    lines.append(
        "A surrogate can be trained here." if report["ok"] else "Not ready: see the problems above."
    )
    return "\n".join(lines)
