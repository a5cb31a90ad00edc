"""The documents are wrapped, and the Python of the README runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_prose_is_wrapped_at_100_columns(document: Path) -> None:
    long = []
    code = False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        code ^= line.lstrip().startswith("```")
        table = line.startswith("|")
        # A single word, such as an address, cannot be broken.
        if len(line) > 100 and not code and not table and len(line.split()) > 1:
            long.append(f"{document.name}:{number}")
    assert long == []


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.+?)^```", README, re.M | re.S))
def test_python_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the README's code prints something"
