"""A run's folder: configuration, checkpoints and results.

``run.json`` the configuration, ``recipe.toml`` the effective recipe, ``checkpoint.pt`` and
``checkpoint.previous.pt`` the last two states, ``metrics.jsonl`` a line per epoch, and once the run
is done ``model.safetensors``, plots and ``result.json``, which is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from torch import Tensor
from typing_extensions import TypedDict

from surrogate.errors import DataError, SurrogateError, UsageError, one_line
from surrogate.evaluation.result import Scores
from surrogate.files import (
    atomic_path,
    atomic_write_text,
    check_is_file,
    explain_os_error,
    lock_file,
)
from surrogate.model.model_file import MODEL_NAME, load
from surrogate.stored import parse_json, read_bytes, read_text, seal, seal_json, unseal, unseal_json
from surrogate.training.epoch_scores import Epoch
from surrogate.training.run_config import RunConfig
from surrogate.validated import record, validate

__all__ = ["FolderInUse", "RunFolder"]

_FORMAT, _VERSION = "surrogate-run", 2

#: What a checkpoint may have besides weights: its history, some 300 bytes an epoch.
_MOST_HISTORY = 1 << 26

Arrays = dict[str, NDArray[np.float32]]


@record
class Result(TypedDict):
    """What ``result.json`` holds."""

    run: str
    model: str
    epochs: int
    epoch_kept: int
    unstable: bool
    unstable_reason: str | None
    training_seconds: float
    validation: Scores


@record
class Progress(TypedDict):
    """What a checkpoint holds besides weights and moments."""

    step: Annotated[int, Field(ge=0)]
    history: list[Epoch]
    failure: str | None
    seconds: float
    own_seconds: float
    input_rate_hz: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]
    sums: Annotated[list[float], Field(min_length=2, max_length=2)]
    kept: Epoch | None
    best_auc: Annotated[float, Field(allow_inf_nan=True)]
    waited: int


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

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Keep both as the newest checkpoint, and the one before it in case it is damaged."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        content = safetensors.save(arrays, {"state": json.dumps(state)})
        with atomic_path(self._checkpoint) as aside:
            aside.write_bytes(seal(content))
            if self._checkpoint.exists():
                os.replace(self._checkpoint, self._previous)

    def load_checkpoint(
        self, restore: Callable[[Arrays, Progress], None], weights_bytes: int
    ) -> str | None:
        """Give the newest checkpoint that is not damaged to ``restore``.

        Parameters
        ----------
        restore : callable
            Takes what :meth:`save_checkpoint` was given, as arrays; ValueError refuses it.
        weights_bytes : int
            The arrays have no more than this together.

        Returns
        -------
        str or None
            Which are damaged and how. Where none is left the run begins again, and the note says
            so.
        """
        for leftover in self.path.glob(".*.partial"):  # of a run that was killed while writing
            leftover.unlink()
        damaged = []
        for path in (self._checkpoint, self._previous):
            if not path.exists():
                continue
            try:
                restore(*_read_checkpoint(path, weights_bytes + _MOST_HISTORY))
            except (OSError, ValueError, SafetensorError) as error:
                damaged.append(f"{path} is damaged ({one_line(str(error))})")
                # Removed, so that the next save does not replace the good one by it.
                path.unlink()
                continue
            return f"{damaged[0]}; going on from {path.name}" if damaged else None
        return f"{'; '.join(damaged)}; starting again" if damaged else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working in this folder.

        Raises
        ------
        FolderInUse
            If one does.
        """
        check_is_file(self._config)
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
        """The result, if the run is done and neither it nor the model file is damaged."""
        try:
            load(self.model)
            return dict(validate(Result, unseal_json(self.result), self.result.name))
        except (OSError, ValueError, DataError):
            return None  # written again from the checkpoint

    def read_metrics(self) -> list[Epoch]:
        """The epochs of ``metrics.jsonl``; none if the file is gone.

        Raises
        ------
        DataError
            If the file is damaged or cannot be read.
        """
        try:
            lines = read_text(self.metrics, _MOST_HISTORY).splitlines()
            return validate(list[Epoch], list(map(parse_json, lines)), "epochs")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain_os_error(error, self.metrics) from error
        except ValueError as error:
            raise DataError(f"{self.metrics}: damaged ({error}); train the model again") from error

    def write_metrics(self, history: list[Epoch]) -> None:
        """Make ``metrics.jsonl`` hold exactly the epochs of ``history``."""
        atomic_write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in history))

    def write_result(self, result: dict[str, Any]) -> None:
        """Mark the run as done."""
        atomic_write_text(self.result, seal_json(result))


def _read_checkpoint(path: Path, most: int) -> tuple[Arrays, Progress]:
    content = unseal(read_bytes(path, most))
    arrays = safetensors.load(content)
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
    state = parse_json((header.get("__metadata__") or {}).get("state", ""))
    return arrays, validate(Progress, state, "state")
