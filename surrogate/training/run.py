"""One run from data to model file: `surrogate.train`, `surrogate.resume`, and their parts."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import Interrupted, UsageError
from surrogate.model.model_file import Model, load
from surrogate.training.epoch_scores import Epoch
from surrogate.training.finish import finish
from surrogate.training.loop import train_to_end
from surrogate.training.progress import Console, Reporter
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import Trainer, TrainingProgress

__all__ = ["TrainingRun", "open_trainer", "resume", "train"]

ShowProgress = bool | Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainingRun:
    """A finished training run.

    Attributes
    ----------
    path : Path
        The run's folder: recipe, metrics of each epoch (``metrics.jsonl``), figures, model file.
    config : RunConfig
        What was trained, from which recipe and seed.
    dataset : Dataset
    result : dict
        What ``result.json`` holds: ``run``, ``model``, ``epochs``, ``epoch_kept``, ``unstable``,
        ``unstable_reason``, ``training_seconds``, and ``validation``, the scores on all validation
        trials by the names of ``surrogate evaluate --json``.
    """

    path: Path
    config: RunConfig
    dataset: Dataset
    result: dict[str, Any] = field(repr=False)

    @property
    def model_path(self) -> Path:
        """The model file, which :func:`surrogate.load` reads."""
        return RunFolder(self.path).model

    @property
    def history(self) -> list[Epoch]:
        """The metrics of each epoch: loss, and the scores on validation windows."""
        return RunFolder(self.path).read_metrics()

    @functools.cached_property
    def model(self) -> Model:
        """The trained model, loaded from its file."""
        return load(self.model_path)


def train(
    data: str | os.PathLike[str] | Dataset | None = None,
    *,
    arch: str = "lstm",
    hidden: str | Sequence[int] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    teacher: str | os.PathLike[str] | None = None,
    seed: int = 0,
    labels: str = "exact",
    reuse_windows: bool = False,
    out: str | os.PathLike[str] | None = None,
    device: str | None = None,
    threads: int = 1,
    plots: bool = True,
    progress: ShowProgress = False,
    **settings: Any,
) -> TrainingRun:
    """Train a surrogate and evaluate it on the validation trials.

    Ctrl-C saves where the run stands and raises :class:`~surrogate.errors.Interrupted`;
    :func:`resume` goes on from there, also after a crash, and ends with the same weights, bit for
    bit.

    Parameters
    ----------
    data : path or Dataset, optional
        With trials of the splits "train" and "valid"; by default the bundled sample of a layer 5
        pyramidal cell.
    arch : str
        "rnn", "gru", "lstm", or another key of :data:`surrogate.kernels.ARCHITECTURES`.
    hidden : str or sequence of int, optional
        Units of each layer, the last always 2 (spike logit, soma voltage), as "256-64-2" or
        ``[256, 64, 2]``; by default the architecture's own.
    recipe : str or path
        "tuned", "blog", "distilled", or a TOML file; by default "tuned", or "distilled" with a
        teacher.
    teacher : path, optional
        Model file of a stronger surrogate of the neuron: its spike probability and voltage on input
        that is drawn anew are what is learnt, beside the ``real_share`` of the training trials.
    seed : int
        Of initial weights, windows, input jitter, and the input drawn for a teacher.
    labels : "exact" | "legacy"
        Exact output spike times, or those the public files give (float16).
    reuse_windows : bool
        Begin anew when the data hold fewer windows than the recipe takes, as the sample always
        does.
    out : path, optional
        The run's folder; by default one below ``runs/``, named by stack, recipe and seed.
    device : str, optional
        "cpu", "cuda" or "cuda:N"; by default "cuda" where there is a GPU.
    threads : int
        CPU threads. The weights depend on them in the last digits.
    plots : bool
        Whether to draw learning curve, ROC curve and traces into the folder.
    progress : bool or callable
        True shows the run on stderr; a callable is called after each optimiser step with a
        :class:`~surrogate.training.trainer.TrainingProgress`.
    **settings
        Recipe values by key, such as ``epochs=3`` or ``learning_rate=0.01``.

    Returns
    -------
    TrainingRun
        With ``model``, ``model_path`` and ``result``.

    Raises
    ------
    UsageError
        For an architecture, size, recipe key or value that does not exist, a folder that already
        holds a run, or data with no such splits or too few windows.
    DataError
        If the data cannot be read or the folder cannot be written to.
    Interrupted
        After Ctrl-C (SIGINT) or SIGTERM.
    SurrogateError
        If the loss became infinite or NaN before the first epoch ended.

    Examples
    --------
    >>> import surrogate
    >>> run = surrogate.train(arch="gru", hidden="32-2", epochs=3)  # doctest: +SKIP
    >>> run.result["validation"]["roc_auc"]                         # doctest: +SKIP
    0.87
    >>> probability, voltage_mv = run.model.predict(surrogate.datasets.open())  # doctest: +SKIP
    """
    dataset = data if isinstance(data, Dataset) else datasets.open(data)
    taught_by = None if teacher is None else load(teacher)
    config = RunConfig.for_dataset(
        dataset,
        arch,
        hidden,
        recipe,
        settings,
        teacher=taught_by,
        seed=seed,
        labels=labels,
        reuse_windows=reuse_windows,
    )
    folder = RunFolder(out or _default_folder(config))
    folder.require_empty()
    device = _choose_device(device)
    with _torch_threads(threads):
        return _complete(config, dataset, taught_by, folder, device, plots, _reporter(progress))


def resume(
    folder: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    teacher: str | os.PathLike[str] | None = None,
    device: str | None = None,
    threads: int = 1,
    plots: bool = True,
    progress: ShowProgress = False,
) -> TrainingRun:
    """Continue the run in ``folder`` from its last checkpoint; a finished one is given back.

    Parameters
    ----------
    folder : path
        Of a run that :func:`train` or `surrogate train` began.
    data : path, optional
        The run's data set, if it is no longer where it was.
    teacher : path, optional
        Its teacher, likewise.
    device, threads, plots, progress
        As for :func:`train`.

    Returns
    -------
    TrainingRun

    Raises
    ------
    UsageError
        If there is no run, or ``data`` or ``teacher`` is not its own.
    DataError
        If the run's files or the data are damaged.
    Interrupted, SurrogateError
        As for :func:`train`.

    Examples
    --------
    >>> run = surrogate.resume("runs/gru-32-2-tuned-s0")  # doctest: +SKIP
    """
    run = RunFolder(folder)
    config, reporter = run.config(), _reporter(progress)
    dataset = config.open_data(data)
    if (result := run.stored_result()) is not None:
        reporter.say(f"{run.path} is done; this is its result")
        return TrainingRun(run.path, config, dataset, result)
    if run.result.exists():
        reporter.say(f"{run.path}: its result or model file is damaged; making both again")
    taught_by = config.load_teacher(teacher)
    device = _choose_device(device)
    with _torch_threads(threads):
        return _complete(config, dataset, taught_by, run, device, plots, reporter)


def open_trainer(
    config: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    device: str = "cpu",
    teacher: Model | None = None,
) -> Trainer:
    """A trainer at its first step, its folder created if there was none.

    Raises
    ------
    UsageError
        If the data have no such splits or too few windows, or do not fit the teacher; then nothing
        is written.
    DataError
        If the folder cannot be written to.
    """
    trainer = Trainer(config, dataset, folder, device, teacher)
    if not folder.exists():
        folder.create(config)
    return trainer


def _complete(
    config: RunConfig,
    dataset: Dataset,
    teacher: Model | None,
    folder: RunFolder,
    device: str,
    plots: bool,
    reporter: Reporter,
) -> TrainingRun:
    """Train from the last checkpoint, if there is one, to the result."""
    begun = folder.exists()
    trainer = open_trainer(config, dataset, folder, device, teacher)
    reporter.begin(trainer)
    with folder.lock():
        if begun:
            note = trainer.resume()
            reporter.say(note or f"resuming after step {trainer.step}")
        with reporter.steps(trainer) as report:
            train_to_end(trainer, report)
        reporter.say(f"evaluating on {len(trainer.valid_trials)} validation trials")
        try:
            result = finish(trainer, plots)
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped while evaluating, the training is saved; continue with: "
                f"{folder.resume_command}"
            ) from None
    return TrainingRun(folder.path, config, dataset, result)


def _reporter(progress: ShowProgress) -> Reporter:
    if isinstance(progress, bool):
        return Console() if progress else Reporter()
    return Reporter(progress)


def _choose_device(wanted: str | None) -> str:
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise UsageError(f"device {device!r}: expected cpu or cuda")
    try:
        index = torch.device(device).index or 0
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: expected cpu, cuda or cuda:N") from error
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(
            f"device {device!r}: torch finds {torch.cuda.device_count()} CUDA GPUs; use cpu"
        )
    return device


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _default_folder(config: RunConfig) -> str:
    spec = config.spec
    return f"runs/{spec.arch}-{spec.sizes_text}-{config.recipe.name}-s{config.seed}"
