"""A grid's folder: ``grid.json`` and below ``experiments/`` a run folder for each experiment.

Besides the files of its run an experiment's folder holds ``starts.jsonl``, a line for each time a
worker started or continued it, ``lease.json`` while one works on it, and finally ``done.json`` or
``failed.json``.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from surrogate.errors import DataError, UsageError
from surrogate.evaluation.result import Scores
from surrogate.files import atomic_write_text, check_is_file, explain_os_error
from surrogate.grid.grid import Grid
from surrogate.stored import seal_json, unseal_json
from surrogate.training.run_folder import RunFolder
from surrogate.validated import record, validate

__all__ = ["ExperimentFolder", "GridFolder"]

T = TypeVar("T")
Number = Annotated[float, Field(ge=0)]
Nothing = Annotated[dict[str, Any], Field(max_length=0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


@record
class Done(TypedDict):
    """What ``done.json`` holds; docs/grid.md."""

    experiment: dict[str, Any]
    hash: str
    status: Literal["done", "unstable"]
    unstable_reason: str | None
    epochs: Count
    scores: dict[Literal["valid"], Scores | Nothing]  # nothing: it failed in its first epoch
    parameters: Count
    seconds: Number
    own_seconds: Number
    together: Count
    windows: Count
    machine: str
    versions: dict[str, str]
    provider: str
    finished: Number


@record
class Failure(TypedDict):
    """What ``failed.json`` holds: the last error, and how many attempts have failed."""

    error: str
    attempts: Count
    time: Number
    traceback: NotRequired[str]


class ExperimentFolder:
    """Reads and writes the records of one experiment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = RunFolder(path)
        self._done = path / "done.json"
        self._failed = path / "failed.json"

    def done(self) -> Done | None:
        """The record of the finished experiment; None if it has none that is readable."""
        record = _read(Done, self._done)
        return record if record is None or record["hash"] == self.path.name else None

    def failure(self) -> Failure | None:
        """The record of the last failure; None if it has none that is readable."""
        return _read(Failure, self._failed)

    def write_done(self, record: Done) -> None:
        """Mark the experiment as finished, and remove what only an unfinished one needs.

        The two checkpoints hold five copies of the weights each: most of a grid's disk space.
        """
        atomic_write_text(self._done, seal_json(record))
        self.clear_failure()
        self.drop_checkpoints()

    def write_failure(self, error: str, traceback: str | None = None) -> None:
        """Record that an attempt failed."""
        before = self.failure()
        attempts = before["attempts"] + 1 if before else 1
        record: Failure = {"error": error, "attempts": attempts, "time": time.time()}
        if traceback:
            record["traceback"] = traceback
        atomic_write_text(self._failed, seal_json(record))

    def clear_failure(self) -> None:
        """Remove the record of the last failure, so that the experiment is tried again."""
        self._failed.unlink(missing_ok=True)

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints."""
        for path in self.path.glob("checkpoint*.pt"):
            path.unlink()

    def note_start(self, step: int, note: str | None) -> None:
        """Add a line to ``starts.jsonl``: where and when a worker began, and from which step."""
        line = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
            "step": step,
        }
        line |= {"note": note} if note else {}
        path = self.path / "starts.jsonl"
        try:
            if path.exists():
                check_is_file(path)
            with open(path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
        except OSError as error:
            raise explain_os_error(error, path) from error


class GridFolder:
    """Reads and writes the folder of a grid."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._grid = self.path / "grid.json"

    def exists(self) -> bool:
        """Whether the folder holds a grid."""
        return self._grid.exists()

    def create(self, grid: Grid) -> None:
        """Begin ``grid`` here, or continue it if the folder holds it already.

        Raises
        ------
        UsageError
            If the folder holds another grid.
        DataError
            If it cannot be written to.
        """
        if not self.exists():
            atomic_write_text(self._grid, seal_json(grid.to_dict()))
            return
        wanted = [one.hash for one in grid.experiments()]
        if wanted != [one.hash for one in self.grid().experiments()]:
            raise UsageError(
                f"{self.path} holds another grid; continue that one with "
                f"`surrogate grid run --out {self.path}` alone, or choose another --out"
            )

    def grid(self) -> Grid:
        """The grid in this folder.

        Raises
        ------
        UsageError
            If there is none.
        DataError
            If its file is damaged.
        """
        try:
            return Grid.from_dict(unseal_json(self._grid))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{self.path} holds no grid (no grid.json); give the folder of a `surrogate grid "
                "run`"
            ) from None
        except OSError as error:
            raise explain_os_error(error, self._grid) from error
        except ValueError as error:
            raise DataError(
                f"{self._grid}: damaged ({error}); remove it and begin the grid again in this "
                "folder: finished experiments are kept"
            ) from error

    def write_costs(self, costs: Mapping[str, float]) -> None:
        """Keep the predicted seconds of experiments, by hash, for ``grid status``."""
        atomic_write_text(self.path / "costs.json", seal_json(self.costs() | dict(costs)))

    def costs(self) -> dict[str, float]:
        """Predicted seconds of the experiments that were to be run, by hash."""
        return _read(dict[str, Annotated[float, Field(gt=0)]], self.path / "costs.json") or {}

    def experiment(self, name: str) -> ExperimentFolder:
        """The folder of the experiment whose hash is ``name``."""
        return ExperimentFolder(self.path / "experiments" / name)


def _read(kind: type[T], path: Path) -> T | None:
    """The record in ``path``; None if it is damaged or there is none."""
    try:
        return validate(kind, unseal_json(path), path.name)
    except (OSError, ValueError):
        return None
