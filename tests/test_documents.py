"""The documents are wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])


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
