"""The packages are complete, their versions agree, and nothing is missing from them."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import surrogate

REPOSITORY = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PYPROJECT["tool"]["setuptools"]["package-dir"]
MODULES = sorted(
    ".".join([package, *path.relative_to(REPOSITORY / folder).with_suffix("").parts])
    for package, folder in FOLDERS.items()
    for path in (REPOSITORY / folder).rglob("*.py")
    if path.name != "__init__.py"
)


def test_every_folder_is_a_listed_package() -> None:
    found = {
        ".".join([package, *path.parent.relative_to(REPOSITORY / folder).parts])
        for package, folder in FOLDERS.items()
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".toml", ".h5", ".safetensors", ".h", ".html"}
    }
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_nothing_but_surrogate_is_installed_at_the_top_level() -> None:
    packages = PYPROJECT["tool"]["setuptools"]["packages"]
    assert {package.partition(".")[0] for package in packages} == {"surrogate"}
    for folder in set(FOLDERS.values()) - {"surrogate"}:
        installed = importlib.metadata.packages_distributions().get(folder, [])
        assert "surrogate-neuron" not in installed


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_and_names_what_it_offers(module: str) -> None:
    imported = importlib.import_module(module)
    for name in getattr(imported, "__all__", ()):
        assert hasattr(imported, name), f"{module}.__all__ names {name}, which is not there"


def test_one_version_everywhere() -> None:
    version = PYPROJECT["project"]["version"]
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert importlib.metadata.version("surrogate-neuron") == version
    assert surrogate.__version__ == version
    assert re.search(r'^version: "(.+)"$', citation, re.MULTILINE)[1] == version
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)[1] == version


def test_surrogate_imports_without_brian2_and_triton() -> None:
    code = (
        "import sys; sys.modules['brian2'] = sys.modules['triton'] = None; "
        "import surrogate; [getattr(surrogate, name) for name in surrogate.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_that_commands_need_are_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    homes = {
        name: REPOSITORY / _folder(name) for name in PYPROJECT["tool"]["setuptools"]["packages"]
    }
    packaged = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in homes[package].glob(glob)
    }
    needed = {
        path
        for folder in FOLDERS.values()
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".toml", ".h5", ".safetensors", ".h", ".cpp", ".html", ".css"}
        or path.name == "py.typed"
        or path.match("results/gpu-*.json")
    }
    assert needed == packaged


def _folder(package: str) -> str:
    """Where the files of ``package`` lie: below the nearest package with a folder of its own."""
    parent = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return FOLDERS[parent] + package.removeprefix(parent).replace(".", "/")
