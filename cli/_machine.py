"""What `surrogate doctor` finds out about the machine and the installed packages."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

__all__ = [
    "brian2_conflicts",
    "compiler",
    "cpu",
    "gpus",
    "package_problems",
    "package_versions",
    "x86_level",
]

# x86-64 psABI, table 3.1: what each level adds, by the names in /proc/cpuinfo.
X86_LEVELS = {
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "abm", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
# Where sysctl on macOS spells them differently.
SYSCTL_NAMES = {
    "avx1.0": "avx",
    "lahf": "lahf_lm",
    "lzcnt": "abm",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
# Of some hundred CPU flags, those that decide how fast a recurrent stack runs.
TELLING_SETS = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_tile",
    "neon",
    "asimd",
    "sve",
)

# Packages that no requirement names but that decide whether Brian2 works.
BRIAN2_COMPANIONS = ("pyparsing", "cython")


def package_versions() -> dict[str, str | None]:
    """Installed version of every required package, None where it is missing."""
    names = [requirement.name for requirement in _requirements()]
    return {name: _version(name) for name in dict.fromkeys([*names, *BRIAN2_COMPANIONS])}


def package_problems(versions: dict[str, str | None]) -> dict[str, str]:
    """What is wrong with each package, and the cure, by package name.

    Parameters
    ----------
    versions : dict
        As :func:`package_versions` gives them.
    """
    problems = {}
    for requirement in _requirements():
        found = versions[requirement.name]
        cure = f"python -m pip install {str(requirement).partition(';')[0].strip()!r}"
        if found is None:
            problems[requirement.name] = f"{requirement.name} is not installed; {cure}"
        elif not requirement.specifier.contains(found, prereleases=True):
            problems[requirement.name] = (
                f"{requirement.name} {found} is installed, but {requirement.specifier} is needed; "
                f"{cure}"
            )
    return problems


def brian2_conflicts(versions: dict[str, str | None]) -> dict[str, str]:
    """Installed packages that break Brian2 2.9, the last for Python 3.11, with the cure.

    Unlike :func:`package_problems` these leave training and evaluating untouched.
    """
    brian2, numpy, pyparsing = (versions.get(name) for name in ("brian2", "numpy", "pyparsing"))
    conflicts = {}
    if brian2 and Version(brian2) < Version("2.10"):
        if numpy and Version(numpy) >= Version("2.4"):
            conflicts["numpy"] = (
                f"brian2 {brian2} breaks with numpy {numpy}; python -m pip install 'numpy<2.4'"
            )
        if pyparsing == "3.2.4":
            conflicts["pyparsing"] = (
                f"brian2 {brian2} breaks with pyparsing 3.2.4; "
                "python -m pip install 'pyparsing!=3.2.4'"
            )
    return conflicts


def _requirements() -> list[Requirement]:
    """This package's own requirements that apply here; extras do not."""
    try:
        lines = metadata.requires("surrogate-neuron") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return []
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu() -> dict[str, Any]:
    """Model, instruction sets and cores of the CPU."""
    machine = platform.machine()
    model, flags = _sysctl_cpu() if platform.system() == "Darwin" else _proc_cpu()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": model or platform.processor() or machine,
        "architecture": machine,
        "level": x86_level(flags) if machine.lower() in {"x86_64", "amd64"} else None,
        "instruction_sets": [name for name in TELLING_SETS if name in flags],
        "logical_cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
    }


def x86_level(flags: set[str]) -> str:
    """The highest x86-64 microarchitecture level whose instructions are all in ``flags``."""
    level = "x86-64"
    for name, needed in X86_LEVELS.items():
        if not needed <= flags:
            break
        level = name
    return level


def _proc_cpu() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "", set()
    first = text.split("\n\n", 1)[0]
    fields = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    return fields.get("model name", ""), set(
        (fields.get("flags") or fields.get("features") or "").lower().split()
    )


def _sysctl_cpu() -> tuple[str, set[str]]:
    model = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    if platform.machine() == "arm64":
        return model, {"neon"}  # part of every arm64 Mac
    names = " ".join(
        _output(["sysctl", "-n", key])
        for key in (
            "machdep.cpu.features",
            "machdep.cpu.leaf7_features",
            "machdep.cpu.extfeatures",
        )
    )
    return model, {SYSCTL_NAMES.get(name, name) for name in names.lower().split()}


def compiler() -> dict[str, str] | None:
    """The C++ compiler that builds would use: ``$CXX``, else the first found."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl"):
        path = shutil.which(name) if name else None
        if path:
            version = _output([path, "--version"]).splitlines()
            return {"path": path, "version": version[0] if version else "unknown"}
    return None


def gpus(torch: Any) -> list[dict[str, Any]]:
    """CUDA GPUs that torch can use."""
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": one.name,
            "compute_capability": f"{one.major}.{one.minor}",
            "memory_gib": round(one.total_memory / 2**30, 1),
        }
        for one in properties
    ]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
