"""A run's folder: configuration, checkpoints and results.

``run.json`` the configuration, ``recipe.toml`` the effective recipe, ``checkpoint.pt`` and
``checkpoint.previous.pt`` the last two states, ``metrics.jsonl`` a line per epoch, and once the run
is done ``model.h5``, plots and ``result.json``, which is written last.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.files import atomic_path, atomic_write_text, explain_os_error, lock_file
from surrogate.training.recipe import Recipe

__all__ = ["FolderInUse", "RunConfig", "RunFolder"]

CHECKPOINT_VERSION = 1


class FolderInUse(SurrogateError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's result, bit for bit on one machine.

    Attributes
    ----------
    arch, hidden_sizes : the stack
    recipe : Recipe
    seed : int
        Of initial weights, windows and input jitter.
    labels : "exact" | "legacy"
        Which output spike times are learnt.
    data : str or None
        Path of the data set; None is the bundled sample.
    data_digest : str
        Of its contents.
    reuse_windows : bool
    """

    arch: str
    hidden_sizes: tuple[int, ...]
    recipe: Recipe
    seed: int
    labels: str
    data: str | None
    data_digest: str
    reuse_windows: bool

    def to_json(self) -> str:
        """As stored in ``run.json``."""
        values = asdict(self) | {"recipe": self.recipe.to_dict()}
        return json.dumps({"format": "surrogate-run", "version": 1} | values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read :meth:`to_json`'s text; ValueError, TypeError or KeyError if it is damaged."""
        values = json.loads(text)
        if values.pop("format") != "surrogate-run" or values.pop("version") != 1:
            raise ValueError("not a surrogate-run of version 1")
        recipe: dict[str, Any] = values.pop("recipe")
        recipe = {key: math.inf if value == "inf" else value for key, value in recipe.items()}
        sizes = tuple(values.pop("hidden_sizes"))
        config = cls(hidden_sizes=sizes, recipe=Recipe(**recipe), **values)
        if type(config.seed) is not int or config.labels not in ("exact", "legacy"):
            raise ValueError(f"seed {config.seed!r}, labels {config.labels!r}")
        return config


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.model = self.path / "model.h5"
        self.result = self.path / "result.json"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / "run.json"
        self._checkpoint = self.path / "checkpoint.pt"
        self._previous = self.path / "checkpoint.previous.pt"

    def create(self, config: RunConfig) -> None:
        """Start a new run here.

        Raises
        ------
        UsageError
            If the folder already holds a run.
        DataError
            If it cannot be written to.
        """
        if self._config.exists():
            raise UsageError(
                f"{self.path} already holds a run; continue it with --resume {self.path} or "
                "choose another --out"
            )
        atomic_write_text(self.path / "recipe.toml", config.recipe.to_toml())
        atomic_write_text(self._config, config.to_json())

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
            return RunConfig.from_json(self._config.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{self.path} holds no run (no run.json); give the folder that "
                "`surrogate train` printed"
            ) from None
        except OSError as error:
            raise explain_os_error(error, self._config) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self._config}: damaged ({error}); start the run again") from error

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep ``state`` as the newest checkpoint, and the one before it in case it is damaged."""
        # Through memory: torch.save itself turns a full disk into a RuntimeError without a cause.
        buffer = io.BytesIO()
        torch.save({"version": CHECKPOINT_VERSION} | state, buffer)
        with atomic_path(self._checkpoint) as aside:
            aside.write_bytes(buffer.getvalue())
            if self._checkpoint.exists():
                os.replace(self._checkpoint, self._previous)

    def load_checkpoint(self) -> tuple[dict[str, Any] | None, str | None]:
        """The newest readable checkpoint, and a note if a damaged one had to be passed over.

        Raises
        ------
        DataError
            If checkpoints exist and none is readable.
        """
        for leftover in self.path.glob(".*.partial"):  # of a run that was killed while writing
            leftover.unlink()
        damaged = []
        for path in (self._checkpoint, self._previous):
            if not path.exists():
                continue
            try:
                # weights_only: a checkpoint must not run code.
                state = torch.load(path, map_location="cpu", weights_only=True)
                if state["version"] != CHECKPOINT_VERSION:
                    raise ValueError(f"checkpoint version {state['version']}")
            except Exception as error:  # for damaged files torch.load raises many types of errors
                damaged.append(f"{path} is damaged ({type(error).__name__})")
                continue
            if not damaged:
                return state, None
            # Removed, so that the next save does not replace the good one by it.
            self._checkpoint.unlink()
            return state, f"{damaged[0]}; going on from {path.name}"
        if damaged:
            raise DataError(f"{'; '.join(damaged)}: start the run again in another folder")
        return None, None

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
            return dict(json.loads(self.result.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # a damaged result is written again from the checkpoint

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Make ``metrics.jsonl`` hold exactly the epochs of ``history``."""
        atomic_write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in history))

    def write_result(self, result: dict[str, Any]) -> None:
        """Mark the run as done."""
        atomic_write_text(self.result, json.dumps(result, indent=2) + "\n")
