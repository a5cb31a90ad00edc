"""`surrogate train`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from surrogate.cli._common import emit, json_option, parse_settings, threads_option

if TYPE_CHECKING:
    from surrogate.training.run import TrainingRun

__all__ = ["train"]

_HELP = """Train a surrogate and evaluate it on validation trials.

Without --data the bundled sample of a layer 5 pyramidal cell is used. The run's folder receives the
model file (model.safetensors), its recipe, metrics.jsonl and plots. A run that was interrupted,
even by kill -9, continues with --resume and ends with the same weights, bit for bit.

\b
Examples:
  surrogate train --arch lstm
  surrogate train --arch rnn --hidden 32-16-2 --recipe blog --class-weight none
  surrogate train --data l5pc.h5 --out runs/lstm --seed 3
  surrogate train --arch gru --epochs 4 --set weight_decay=0.1 --select-by auc
  surrogate train --arch elm --hidden 20-2
  surrogate train --arch gru --hidden 24-2 --input branches --branches 45
  surrogate train --arch gru --hidden 64-32-2 --teacher best.safetensors
  surrogate train --resume runs/lstm

\b
--json prints one object as the last line: run, model, epochs, epoch_kept, unstable,
unstable_reason, training_seconds, and validation (the keys of `surrogate evaluate --json`).
"""


@click.command(help=_HELP)
@click.option("--arch", default="lstm", show_default=True, help="Such as rnn, gru, lstm or elm.")
@click.option(
    "--hidden", help="Layer sizes, the last 2 [default: 256-64-2; rnn: 32-16-2; elm: 20-2]."
)
@click.option("--input", help="What the first layer sees: dense (all channels) or branches.")
@click.option("--branches", help="Number of branches between channels and first layer.")
@click.option("--data", type=click.Path(), help="Data set [default: the bundled sample].")
@click.option(
    "--recipe",
    help="tuned, blog, distilled, or a file's path [default: tuned; with --teacher distilled].",
)
@click.option(
    "--teacher",
    type=click.Path(),
    metavar="MODEL",
    help="Learn what this model file says on input that is drawn anew.",
)
@click.option("--out", type=click.Path(), help="Run folder [default: below runs/].")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue the run in this folder.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of initial weights, windows, jitter and drawn input.",
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
    import surrogate
    from surrogate.errors import UsageError

    for name in ("resume", "out", "data", "hidden", "recipe", "teacher"):
        if options[name] == "":
            raise UsageError(f"--{name} is empty; give a value or leave it out")
    shown = {name: options[name] for name in ("device", "threads", "plots")} | {"progress": True}
    if options["resume"]:
        _refuse_changes()
        run = surrogate.resume(
            options["resume"], options["data"], teacher=options["teacher"], **shown
        )
    else:
        asked = ["data", "arch", "hidden", "recipe", "teacher", "out", "seed", "labels"]
        asked.append("reuse_windows")
        settings = _recipe_settings(options)
        run = surrogate.train(**{name: options[name] for name in asked}, **shown, **settings)
    emit(as_json, run.result, _summary(run))


def _recipe_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Recipe values that options of their own or ``--set`` give."""
    from surrogate.errors import UsageError
    from surrogate.training.recipe import check_key

    settings = parse_settings(options["settings"])
    for key in settings:  # before it can pass for a parameter of surrogate.train
        check_key(key)
    for key in (
        "epochs",
        "batch_size",
        "learning_rate",
        "select_by",
        "class_weight",
        "input",
        "branches",
    ):
        if options[key] is None:
            continue
        if key in settings:
            raise UsageError(
                f"--{key.replace('_', '-')} and --set {key} say the same; leave one out"
            )
        settings[key] = options[key]
    return settings


def _refuse_changes() -> None:
    """A resumed run is the run that was started: options that would change it are refused."""
    from click.core import ParameterSource

    from surrogate.errors import UsageError

    context = click.get_current_context()
    free = {"resume", "data", "teacher", "device", "threads", "plots", "as_json"}
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in free:
            raise UsageError(
                f"{parameter.opts[0]} cannot change in a resumed run; leave it out, or start "
                "another run"
            )


def _summary(run: TrainingRun) -> str:
    result, dataset = run.result, run.dataset
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
