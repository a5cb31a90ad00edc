"""JSON and TOML of any form end in a result or in one line that a terminal shows as it is."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from helpers.grid import small_grid, surrogate_command, take
from surrogate.grid.lease import Lease
from surrogate.stored import seal_json

HOSTILE = {
    "deep": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "100,000 digits": "1" * 100_000,
    "10**400": str(10**400),
    "infinite": "1e999",
    "null": "null",
    "truth": "true",
    "fraction": "0.5",
    "negative": "-1",
    "text": '"1"',
    "long text": '"' + "x" * 100_000 + '"',
    "escapes": r'"\u001b[2J\u001b]0;owned\u0007\ud800"',
    "list": "[[1], {}]",
    "object": '{"seed": 3}',
}


@pytest.fixture(scope="module")
def folder(toy_data, tmp_path_factory) -> Path:
    """A grid with one experiment done, one failed, one at work, one not begun."""
    place, ledger = small_grid(tmp_path_factory.mktemp("grids") / "g", toy_data)
    done, failed, running, _ = ledger.rows
    assert take(place, done, toy_data).status in ("done", "unstable")
    place.experiment(failed).write_failure("by the test")
    assert Lease.acquire(place.experiment(running).path, threading.Event())
    place.write_costs(dict.fromkeys(ledger.rows, 2.0))
    return place.path


def _refused_or_done(*arguments: object) -> None:
    result = surrogate_command(*arguments)
    assert result.exit_code in (0, 1, 2)
    lines = result.stderr.splitlines()
    assert all(len(line) <= 310 and line.isprintable() for line in lines)
    assert (result.exit_code == 0) != any(line.startswith("Error: ") for line in lines)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "name", ["grid.json", "costs.json", "done.json", "failed.json", "lease.json", "run.json"]
)
def test_a_hostile_value_in_a_record_is_one_line_or_no_record(name, text, folder, tmp_path) -> None:
    """As the whole file, and as each of its values behind a seal that is made again."""
    copy = Path(shutil.copytree(folder, tmp_path / "g"))
    (path,) = list(copy.rglob(name))[:1]
    content = json.loads(path.read_text())
    content.pop("seal", None)
    commands = [("grid", "status", copy)]
    if name == "run.json":
        (path.parent / "result.json").unlink()
        commands = [("train", "--resume", path.parent, "--no-plots")]
    for key in (None, *content):
        changed = text
        if key is not None:
            try:
                sealed = content | {key: json.loads(text)}
            except (ValueError, RecursionError):
                sealed = content | {key: "\x07"}
            changed = json.dumps(sealed) if name == "lease.json" else seal_json(sealed)
        path.write_text(changed)
        for command in commands:
            _refused_or_done(*command)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_in_a_recipe_or_grid_file_is_one_line(text, toy_data, tmp_path) -> None:
    file, out = tmp_path / "file.toml", tmp_path / "out"
    for key in ("batch_size", "epochs", "head", "base", "gru"):
        file.write_text(f"{key} = {text}")
        _refused_or_done("train", "--recipe", file, "--data", toy_data, "--out", out)
        _refused_or_done("train", "--set", f"{key}={text[:100_000]}", "--data", toy_data)
    for key in ("arch", "hidden", "learning_rate", "seeds", "labels", "recipe", "data", "set"):
        file.write_text(
            f"{key} = [{text}, {text}]" if key == "learning_rate" else f"{key} = {text}"
        )
        _refused_or_done("grid", "run", file, "--dry-run", "--out", out)
    assert not out.exists()
