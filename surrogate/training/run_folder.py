"""A run's folder: configuration, checkpoints and results.

``run.json`` the configuration, ``recipe.toml`` the effective recipe, ``checkpoint.pt`` and
``checkpoint.previous.pt`` the last two states, ``metrics.jsonl`` a line per epoch, and once the run
is done ``model.safetensors``, plots and ``result.json``, which is written last.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.files import atomic_path, atomic_write_text, explain_os_error, lock_file
from surrogate.model.model_file import MODEL_NAME
from surrogate.stored import parse_json, seal, seal_json, unseal, unseal_json
from surrogate.training.run_config import RunConfig
from surrogate.validated import validate

__all__ = ["FolderInUse", "RunFolder"]

_FORMAT, _VERSION = "surrogate-run", 2


class FolderInUse(SurrogateError):
    """Another process works in the folder."""


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.model = self.path / MODEL_NAME
        self.result = self.path / "result.json"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / "run.json"
        self._checkpoint = self.path / "checkpoint.pt"
        self._previous = self.path / "checkpoint.previous.pt"

    @property
    def resume_command(self) -> str:
        """What continues this run."""
        return f"surrogate train --resume {shlex.quote(str(self.path))}"

    def exists(self) -> bool:
        """Whether a run lies here."""
        return self._config.exists()

    def require_empty(self) -> None:
        """Raise UsageError if the folder already holds a run."""
        if self.exists():
            raise UsageError(
                f"{self.path} already holds a run; continue it with: {self.resume_command}, or "
                "choose another folder (out)"
            )

    def create(self, config: RunConfig) -> None:
        """Start a new run here; DataError if the folder cannot be written to."""
        atomic_write_text(self.path / "recipe.toml", config.recipe.to_toml())
        content = {"format": _FORMAT, "version": _VERSION} | config.to_dict()
        atomic_write_text(self._config, seal_json(content))

    def config(self) -> RunConfig:
        """The configuration the run was started with.

        Raises
        ------
        UsageError
            If there is no run here.
        DataError
            If its file is damaged.
        """
        try:
            values = unseal_json(self._config)
            if (values.pop("format", None), values.pop("version", None)) != (_FORMAT, _VERSION):
                raise ValueError(f"not a {_FORMAT} of version {_VERSION}")
            return validate(RunConfig, values, "run")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{self.path} holds no run (no run.json); give the folder that "
                "`surrogate train` printed"
            ) from None
        except OSError as error:
            raise explain_os_error(error, self._config) from error
        except ValueError as error:
            raise DataError(f"{self._config}: damaged ({error}); start the run again") from error

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep ``state`` as the newest checkpoint, and the one before it in case it is damaged."""
        # Through memory: torch.save itself turns a full disk into a RuntimeError without a cause.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_path(self._checkpoint) as aside:
            aside.write_bytes(seal(buffer.getvalue()))
            if self._checkpoint.exists():
                os.replace(self._checkpoint, self._previous)

    def load_checkpoint(self) -> tuple[dict[str, Any] | None, str | None]:
        """The newest checkpoint whose seal holds, and a note about those that are damaged.

        Where none is left the run begins again, and the note says so.
        """
        for leftover in self.path.glob(".*.partial"):  # of a run that was killed while writing
            leftover.unlink()
        damaged = []
        for path in (self._checkpoint, self._previous):
            if not path.exists():
                continue
            try:
                payload = io.BytesIO(unseal(path.read_bytes()))
            except (OSError, ValueError) as error:
                damaged.append(f"{path} is damaged ({error})")
                # Removed, so that the next save does not replace the good one by it.
                path.unlink()
                continue
            # weights_only: a checkpoint must not run code.
            state = torch.load(payload, map_location="cpu", weights_only=True)
            return state, f"{damaged[0]}; going on from {path.name}" if damaged else None
        return None, f"{'; '.join(damaged)}; starting again" if damaged else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working in this folder.

        Raises
        ------
        FolderInUse
            If one does.
        """
        try:
            handle = open(self._config, "rb")  # noqa: SIM115
        except OSError as error:
            raise explain_os_error(error, self._config) from error
        with handle:
            try:
                lock_file(handle, wait=False)
            except BlockingIOError:
                raise FolderInUse(
                    f"{self.path}: another process is training in this folder; wait for it or "
                    "stop it"
                ) from None
            yield

    def stored_result(self) -> dict[str, Any] | None:
        """The result, if the run is done and its model file is still there."""
        if not (self.result.exists() and self.model.exists()):
            return None
        try:
            return unseal_json(self.result)
        except (OSError, ValueError):
            return None  # a damaged result is written again from the checkpoint

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs of ``metrics.jsonl``; none if the file is gone.

        Raises
        ------
        DataError
            If the file is damaged or cannot be read.
        """
        try:
            return [parse_json(line) for line in self.metrics.read_text("utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain_os_error(error, self.metrics) from error
        except ValueError as error:
            raise DataError(f"{self.metrics}: damaged ({error}); train the model again") from error

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Make ``metrics.jsonl`` hold exactly the epochs of ``history``."""
        atomic_write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in history))

    def write_result(self, result: dict[str, Any]) -> None:
        """Mark the run as done."""
        atomic_write_text(self.result, seal_json(result))
