"""`surrogate train`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from surrogate.cli._common import emit, json_option, threads_option

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from surrogate.datasets import Dataset
    from surrogate.training.run_folder import RunConfig, RunFolder
    from surrogate.training.trainer import Progress, Trainer

__all__ = ["train"]

_HELP = """Train a surrogate and judge it on validation trials.

Without --data the bundled sample of a layer 5 pyramidal cell is used. The run's folder receives the
model file (model.h5), its recipe, metrics.jsonl and plots. A run that was interrupted, even by
kill -9, continues with --resume and ends with the same weights, bit for bit.

\b
Examples:
  surrogate train --arch lstm
  surrogate train --arch rnn --hidden 32-16-2 --recipe blog --class-weight none
  surrogate train --data l5pc.h5 --out runs/lstm --seed 3
  surrogate train --arch gru --epochs 4 --set weight_decay=0.1 --select-by auc
  surrogate train --resume runs/lstm

\b
--json prints one object as the last line: run, model, epochs, epoch_kept, unstable,
unstable_reason, training_seconds, and validation (the keys of `surrogate evaluate --json`).
"""


@click.command(help=_HELP)
@click.option("--arch", default="lstm", show_default=True, help="Such as rnn, gru or lstm.")
@click.option("--hidden", help="Layer sizes, the last 2 [default: 256-64-2; rnn: 32-16-2].")
@click.option("--data", type=click.Path(), help="Data set [default: the bundled sample].")
@click.option(
    "--recipe", default="tuned", show_default=True, help="tuned, blog, or a TOML file's path."
)
@click.option("--out", type=click.Path(), help="Run folder [default: below runs/].")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue the run in this folder.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of initial weights, windows and input jitter.",
)
@click.option("--epochs", help="Override the recipe's number of epochs.")
@click.option("--batch-size", help="Override the recipe's batch size.")
@click.option("--learning-rate", "--lr", help="Override the recipe's learning rate.")
@click.option("--class-weight", help="Weight of spike bins in the loss: none, 5, 20, ...")
@click.option("--select-by", help="What picks the epoch kept: nll, auc, spread or last.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any recipe key."
)
@click.option(
    "--labels",
    type=click.Choice(["exact", "legacy"]),
    default="exact",
    show_default=True,
    help="Exact output spike times, or those the public files give (float16).",
)
@click.option("--reuse-windows", is_flag=True, help="Begin anew when the data run out.")
@click.option("--device", help="cpu or cuda [default: cuda where there is a GPU].")
@threads_option
@click.option("--plots/--no-plots", default=True, help="Draw the run's figures.")
@json_option
def train(as_json: bool, **options: Any) -> None:
    import torch

    from surrogate import datasets
    from surrogate.errors import UsageError
    from surrogate.training.run_folder import RunFolder
    from surrogate.training.trainer import Trainer

    for name in ("resume", "out", "data", "hidden"):
        if options[name] == "":
            raise UsageError(f"--{name} is empty; give a value or leave it out")
    device = _device(options["device"])
    torch.set_num_threads(options["threads"])
    if options["resume"]:
        folder = RunFolder(options["resume"])
        config = folder.config()
        dataset = _dataset_of(config, options["data"])
        _refuse_changes()
    else:
        dataset = datasets.open(options["data"])
        _require_splits(dataset)
        config = _configure(dataset, options)
        folder = RunFolder(options["out"] or _default_folder(config))
    result = folder.stored_result() if options["resume"] else None
    if result is None:
        trainer = Trainer(config, dataset, folder, device)
        if not options["resume"]:
            folder.create(config)
        click.echo(_describe(config, dataset, device, folder), err=True)
        with folder.lock():
            result = _train(trainer, options)
    else:
        click.echo(f"{folder.path} is done; this is its result", err=True)
    emit(as_json, result, _summary(result, dataset))


def _train(trainer: Trainer, options: dict[str, Any]) -> dict[str, Any]:
    from surrogate.training.finish import finish
    from surrogate.training.trainer import Interrupted

    if options["resume"]:
        note = trainer.resume()
        click.echo(note or f"resuming after step {trainer.step}", err=True)
    if trainer.plan.reused:
        click.echo(
            f"note: the run takes {len(trainer.plan.trial):,} windows, more than the data hold; "
            "they come again in a new order",
            err=True,
        )
    with click.progressbar(
        length=trainer.config.recipe.steps - trainer.step,
        label="training",
        file=sys.stderr,
        show_pos=True,
        item_show_func=lambda text: text,
    ) as bar:
        trainer.run(_reporter(bar, trainer))
    click.echo(f"judging on {len(trainer.valid_trials)} validation trials", err=True)
    try:
        return finish(trainer, options["plots"])
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped while judging, the training is saved; continue with: surrogate train "
            f"--resume {shlex.quote(str(trainer.folder.path))}"
        ) from None


def _device(wanted: str | None) -> str:
    import torch

    from surrogate.errors import UsageError

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise UsageError(f"--device {device!r}: expected cpu or cuda")
    try:
        index = torch.device(device).index or 0
    except RuntimeError as error:
        raise UsageError(f"--device {device!r}: expected cpu, cuda or cuda:N") from error
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: torch finds {torch.cuda.device_count()} CUDA GPUs; "
            "use --device cpu"
        )
    return device


def _configure(dataset: Dataset, options: dict[str, Any]) -> RunConfig:
    from surrogate.errors import UsageError
    from surrogate.kernels import ARCHITECTURES
    from surrogate.model.stack import parse_hidden_sizes
    from surrogate.training.recipe import load_recipe
    from surrogate.training.run_folder import RunConfig

    arch = options["arch"]
    if arch not in ARCHITECTURES:
        raise UsageError(f"unknown arch {arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    hidden = options["hidden"]
    return RunConfig(
        arch=arch,
        hidden_sizes=ARCHITECTURES[arch].hidden_sizes
        if hidden is None
        else parse_hidden_sizes(hidden),
        recipe=load_recipe(options["recipe"], arch, _overrides(options)),
        seed=options["seed"],
        labels=options["labels"],
        data=None if dataset.is_sample else str(dataset.path.resolve()),
        data_digest=dataset.digest,
        reuse_windows=options["reuse_windows"] or dataset.is_sample,
    )


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    from surrogate.errors import UsageError

    overrides: dict[str, Any] = {}
    for setting in options["settings"]:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (key and equals and value):
            raise UsageError(f"--set {setting!r}: expected KEY=VALUE, such as weight_decay=0.1")
        if key in overrides:
            raise UsageError(f"--set {key} is given twice; leave one out")
        overrides[key] = value
    for option in ("epochs", "batch_size", "learning_rate", "select_by", "class_weight"):
        value = options[option]
        if value is None:
            continue
        key = "pos_weight" if option == "class_weight" else option
        if key in overrides:
            raise UsageError(
                f"--{option.replace('_', '-')} and --set {key} say the same; leave one out"
            )
        overrides[key] = "1" if (key, value) == ("pos_weight", "none") else value
    return overrides


def _default_folder(config: RunConfig) -> str:
    sizes = "-".join(map(str, config.hidden_sizes))
    return f"runs/{config.arch}-{sizes}-{config.recipe.name}-s{config.seed}"


def _require_splits(dataset: Dataset) -> None:
    from surrogate.errors import UsageError

    if dataset.split_sizes is None:
        raise UsageError(
            f"{dataset.path}: stores no split, and training needs train and valid trials; convert "
            "it again with --split-fractions"
        )


def _dataset_of(config: RunConfig, given: str | None) -> Dataset:
    """The data set of a run to be resumed, from where it was or from where it is now."""
    from surrogate import datasets

    return datasets.open_recorded(config.data, config.data_digest, "this run", given)


def _refuse_changes() -> None:
    """A resumed run is the run that was started: options that would change it are refused."""
    from click.core import ParameterSource

    from surrogate.errors import UsageError

    context = click.get_current_context()
    free = {"resume", "data", "device", "threads", "plots", "as_json"}
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in free:
            raise UsageError(
                f"{parameter.opts[0]} cannot change in a resumed run; leave it out, or start "
                "another run"
            )


def _describe(config: RunConfig, dataset: Dataset, device: str, folder: RunFolder) -> str:
    from surrogate.kernels import default_provider

    sizes = "-".join(map(str, config.hidden_sizes))
    name = "the bundled sample" if dataset.is_sample else str(dataset.path)
    place = f"{device} ({default_provider(device, arch=config.arch)})"
    return (
        f"{config.arch} {sizes} on {name}, {place}, seed {config.seed}\n"
        f"run folder: {folder.path}\n\n{config.recipe.to_toml()}"
    )


def _reporter(bar: ProgressBar[Any], trainer: Trainer) -> Callable[[Progress], None]:
    """Moves the bar at each step and prints a line for each epoch."""
    recipe = trainer.config.recipe
    begun, first = time.monotonic(), trainer.step
    last_epoch = ""
    erase = "\r\033[K" if sys.stderr.isatty() else ""

    def report(progress: Progress) -> None:
        nonlocal last_epoch
        rate = (progress.step - first) * recipe.batch_size / (time.monotonic() - begun)
        if entry := progress.entry:
            auc, rmse = (
                "none" if value is None else f"{value:.4f}"
                for value in (entry["roc_auc"], entry["voltage_rmse_mv"])
            )
            last_epoch = f"  AUC {auc}"
            # On a terminal the bar stands on this line: write over it.
            click.echo(
                f"{erase}epoch {entry['epoch']:>3}/{recipe.epochs}  loss {entry['loss']:.5f}  "
                f"ROC AUC {auc}  voltage RMSE {rmse} mV  "
                f"{rate:.1f} windows/s{'  kept' if entry['kept'] else ''}",
                err=True,
            )
        bar.update(1, f"loss {progress.loss:.4f}{last_epoch}  {rate:.1f} windows/s")

    return report


def _summary(result: dict[str, Any], dataset: Dataset) -> str:
    validation = result["validation"]
    lines = [
        f"model file: {result['model']}",
        f"epoch kept: {result['epoch_kept']} of {result['epochs']}, "
        f"{result['training_seconds']:.0f} s of training",
    ]
    if result["unstable"]:
        lines.append(f"unstable: {result['unstable_reason']}")
    if validation["roc_auc"] is not None:
        interval = validation["roc_auc_interval"]
        edges = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        lines.append(
            f"validation: ROC AUC {validation['roc_auc']:.4f}{edges}, "
            f"voltage RMSE {validation['voltage_rmse_mv']:.3f} mV, {validation['n_trials']} trials"
        )
    command = ["surrogate", "evaluate", result["model"]]
    if not dataset.is_sample:
        command += ["--data", str(dataset.path)]
    has_test = (dataset.split_sizes or {}).get("test")
    command += ["--split", "test" if has_test else "valid"]
    return "\n".join([*lines, f"next: {shlex.join(command)}"])
