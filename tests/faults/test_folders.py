"""Folders of runs and grids in their thousands of damaged forms."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.numpy

import surrogate
from helpers.faults import Kind, Mutation, check, command, few_or_many
from helpers.grid import small_grid, take, weights
from helpers.mutations import Draw, change_arrays, change_json, of_folder
from surrogate import datasets
from surrogate.errors import Interrupted
from surrogate.grid.folder import GridFolder
from surrogate.grid.lease import Lease
from surrogate.stored import seal, unseal
from surrogate.training.loop import train_to_end
from surrogate.training.run import open_trainer
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import TrainingProgress


def interrupt(progress: TrainingProgress) -> None:
    """At the first of the last two steps."""
    if progress.step == 5:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="session")
def stopped_run(
    tiny_data: Path, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was interrupted at step 5 of 6; its checkpoints are of steps 5 and 4."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    with pytest.raises(Interrupted):
        surrogate.train(tiny_data, out=folder, progress=interrupt, **tiny_training)
    assert (folder / "checkpoint.previous.pt").exists()
    return folder


def resumed(folder: Path, number: int) -> Any:
    """The weights and scores that a run ends with."""
    command("train", "--resume", folder, "--no-plots")
    command("train", "--resume", folder, "--no-plots")
    model = surrogate.load(folder / "model.safetensors")
    scores = {key: value for key, value in model.card.metrics.items() if key != "seconds"}
    weights = {name: value.tolist() for name, value in model.state_dict().items()}
    if number % 50 == 0:
        command("report", folder / "model.safetensors", "--data", RunFolder(folder).config().data)
    return weights, repr(scores)


def resealed_checkpoint(draw: Draw, folder: Path) -> None:
    path = draw.choice(sorted(folder.glob("checkpoint*.pt")))
    content = unseal(path.read_bytes())
    aside = folder / "aside"
    aside.write_bytes(content)
    with safetensors.safe_open(aside, "numpy") as file:
        state = json.loads(file.metadata()["state"])
    aside.unlink()
    arrays = safetensors.numpy.load(content)
    if draw.random() < 0.5:
        state = change_json(draw, state)
    else:
        arrays = change_arrays(draw, arrays)
    path.write_bytes(seal(safetensors.numpy.save(arrays, {"state": json.dumps(state)})))


@few_or_many
def test_checkpoints(stopped_run: Path, tmp_path: Path, count: int) -> None:
    mutations = [
        *of_folder("checkpoint*.pt", sealed=True, resealed=False),
        *4 * [Mutation("checkpoint, sealed anew", resealed_checkpoint)],
    ]
    # A damaged one is told of and passed over: the run ends as it would have.
    check(Kind("checkpoint", stopped_run, mutations, resumed), count, tmp_path, least=0)


@few_or_many
def test_run_folders(stopped_run: Path, tiny_run: Path, tmp_path: Path, count: int) -> None:
    """Of a run that was interrupted, and of one that has ended."""
    mutations = of_folder("*", sealed=True)
    for name, folder in (("run folder", stopped_run), ("finished run folder", tiny_run)):
        check(Kind(name, folder, mutations, resumed), count // 2, tmp_path / name)


@pytest.fixture(scope="session")
def tiny_grid(
    tiny_data: Path, tiny_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A grid of four: one done, one failed, one interrupted, one not begun."""
    place, ledger = small_grid(
        tmp_path_factory.mktemp("grids") / "grid",
        tiny_data,
        arch="rnn",
        hidden="2-2",
        class_weight=["none", 5],
        set=tiny_recipe,
    )
    done, failed, begun, _ = ledger.rows
    assert take(place, done, tiny_data).status == "unstable"
    place.experiment(failed).write_failure("out of luck")
    with datasets.open(tiny_data) as data, contextlib.suppress(Interrupted):
        run = place.experiment(begun).run
        train_to_end(open_trainer(ledger.rows[begun].experiment, data, run), interrupt)
    place.write_costs(dict.fromkeys(ledger.rows, 1.0))
    lease = Lease.acquire(place.experiment(begun).path, threading.Event())
    assert lease is not None
    path = place.experiment(begun).path / "lease.json"
    old = json.loads(path.read_text()) | {"host": "elsewhere", "heartbeat": 1.0}
    path.write_text(json.dumps(old))
    return place.path


def looked_at(data: Path) -> Any:
    def use(folder: Path, number: int) -> Any:
        found = json.loads(command("grid", "status", folder, "--json"))
        rows = {row["hash"]: row for row in found["experiments"]}
        if number % 10 == 0:
            command("grid", "run", "--out", folder, "--dry-run")
        if number % 50 == 0:
            command("grid", "report", folder)
        ends = {}
        if number % 10 == 0:
            command("grid", "retry", folder)
            place = GridFolder(folder)
            for name in rows:
                status = take(place, name, data).status
                whole = status in ("done", "unstable")
                ends[name] = repr(weights(place, name)) if whole else status
        return rows, ends

    return use


def no_other_result(expected: Any, found: Any) -> bool:
    """What counts as done is what was done; what is no longer known to be done is done again."""
    rows, ends = found
    return all(
        row == expected[0].get(name) or row["status"] in ("pending", "failed")
        for name, row in rows.items()
    ) and all(end == expected[1].get(name) or end == "failed" for name, end in ends.items())


@few_or_many
def test_grid_folders(tiny_grid: Path, tiny_data: Path, tmp_path: Path, count: int) -> None:
    mutations = of_folder("*", sealed=True)
    kind = Kind("grid folder", tiny_grid, mutations, looked_at(tiny_data), no_other_result)
    check(kind, count, tmp_path)
