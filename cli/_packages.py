"""The installed packages, for `surrogate doctor`."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

__all__ = ["brian2_conflicts", "package_problems", "package_versions"]

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

    Unlike those of :func:`package_problems`, these do not affect training and evaluating.
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
