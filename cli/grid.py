"""`surrogate grid`: many trainings as one resumable job."""

from __future__ import annotations

import time
from typing import Any

import click

from surrogate.cli._common import emit, json_option, parse_settings, say
from surrogate.cli.report import grid_report
from surrogate.files import GRID_FOLDER

__all__ = ["grid"]

#: How often `grid status --watch` looks, seconds.
_WATCH_S = 2.0


@click.group()
def grid() -> None:
    """Train a grid of surrogates: sizes, learning rates, class weights and seeds.

    \b
    Examples:
      surrogate grid run --dry-run
      surrogate grid run --data l5pc.h5 --out runs/grid
      surrogate grid status runs/grid --watch
      surrogate grid report runs/grid
    """


_RUN_HELP = """Run a grid, or go on with one.

Without options these are the blog's 216 experiments: 3 architectures, 6 sizes, 4 learning rates
and 3 class weights, on the bundled sample. GRID is a TOML file with the same keys
(docs/grid.md); options take precedence. An axis takes several values, joined by commas or given
again.

Each experiment is a run folder below DIR/experiments, named by what decides its result. Ctrl-C
saves and stops; the same command, or just `grid run --out DIR`, goes on where it stopped, on this
machine or another. What failed is recorded, the others go on; `grid retry` puts it back.

\b
Examples:
  surrogate grid run --dry-run
  surrogate grid run --arch lstm --hidden 32-16-2,256-64-2 --lr 0.003 --set epochs=20
  surrogate grid run my-grid.toml --data l5pc.h5 --out runs/mine --jobs 8
  surrogate grid run --out runs/mine
  surrogate grid run --out runs/mine --engine dask --scheduler tcp://node1:8786
  surrogate grid run --out runs/mine --engine dask --cluster slurm.toml

\b
--json prints one object: grid, counts (done, unstable, running, failed, pending),
experiments (hash, arch, hidden_sizes, learning_rate, class_weight, seed, status, progress,
seconds, roc_auc, error, host). With --dry-run each has parameters and estimated_seconds instead
of what only a run knows, and all together jobs, together, estimated_hours and disk_bytes.
"""


@grid.command(help=_RUN_HELP)
@click.argument("file", metavar="[GRID]", required=False, type=click.Path(dir_okay=False))
@click.option("--data", type=click.Path(), help="Data set [default: the bundled sample].")
@click.option("--out", type=click.Path(), help=f"Grid folder [default: {GRID_FOLDER}].")
@click.option("--arch", multiple=True, help="rnn, gru, lstm [default: all].")
@click.option("--hidden", multiple=True, help="Layer sizes, such as 32-16-2 [default: six sizes].")
@click.option("--lr", "learning_rate", multiple=True, help="Learning rates [default: the blog's].")
@click.option(
    "--class-weight", multiple=True, help="Weights of spike bins; none is 1 [default: none,5,20]."
)
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds of each combination [default: 1].")
@click.option(
    "--same-seeds",
    is_flag=True,
    help="Give all combinations the seeds 0, 1, ... instead of seeds of their own.",
)
@click.option("--recipe", help="blog, tuned, or a recipe file [default: blog].")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any recipe key."
)
@click.option(
    "--labels", type=click.Choice(["exact", "legacy"]), help="Spike times [default: exact]."
)
@click.option("--reuse-windows", is_flag=True, help="Begin anew when the data run out.")
@click.option("--dry-run", is_flag=True, help="Show what would run, how long, and the disk space.")
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="Worker processes here, or a Dask cluster.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Local workers [default: one per GPU or core]."
)
@click.option(
    "--together",
    type=click.IntRange(min=1),
    help="Experiments of one configuration that a worker trains together [default: 12 on a local "
    "GPU, where they share every launch, or with --device cuda; else 1].",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if there is.]")
@click.option("--scheduler", metavar="ADDRESS", help="Of a running Dask scheduler.")
@click.option(
    "--cluster", type=click.Path(), metavar="FILE", help="TOML file with a [slurm] table."
)
@click.option("--ship-data", is_flag=True, help="Send the data to Dask workers, once each.")
@json_option
@click.pass_context
def run(ctx: click.Context, as_json: bool, **options: Any) -> None:
    import torch

    from surrogate import grid
    from surrogate.cli._grid_text import GridDisplay, ledger_json, plan_text, summary
    from surrogate.grid.request import read_grid_file

    torch.set_num_threads(1)
    axes = ("arch", "hidden", "learning_rate", "class_weight", "seeds", "same_seeds")
    asked = {name: options[name] for name in (*axes, "recipe", "labels", "reuse_windows")}
    asked["set"] = parse_settings(options["settings"])
    job = grid.plan(options["data"], file=options["file"], out=options["out"], **asked)
    where = ("engine", "jobs", "together", "device", "scheduler", "ship_data")
    cluster = read_grid_file(options["cluster"]) if options["cluster"] else {}
    workers = grid.Workers(**{name: options[name] for name in where}, slurm=cluster.get("slurm"))
    if options["dry_run"]:
        estimate = job.estimate(workers, say)
        emit(as_json, estimate, plan_text(estimate))
        return
    with GridDisplay() as display:
        ledger = job.run(workers, display, say)
    emit(as_json, ledger_json(ledger), summary(ledger))
    ctx.exit(1 if ledger.counts()["failed"] else 0)


@grid.command()
@click.argument("folder", metavar="DIR", default=GRID_FOLDER, type=click.Path(file_okay=False))
@click.option("--watch", is_flag=True, help="Look again every two seconds until all is done.")
@json_option
def status(folder: str, watch: bool, as_json: bool) -> None:
    """Show how each experiment of a grid stands, and how long the rest will take.

    Works beside a running grid, whatever engine and machine runs it. An experiment counts as
    running while its worker is alive.

    \b
    Examples:
      surrogate grid status
      surrogate grid status runs/mine --watch
      surrogate grid status runs/mine --json

    \b
    --json prints one object, with --watch one per look: grid, counts (done, unstable, running,
    failed, pending), seconds_left, experiments (hash, arch, hidden_sizes, learning_rate,
    class_weight, seed, status, progress, seconds, roc_auc, error, host).
    """
    from surrogate import grid
    from surrogate.cli._grid_text import ledger_json, ledger_text
    from surrogate.grid.job import time_left

    while True:
        ledger = grid.status(folder)
        left = {"seconds_left": time_left(ledger)}
        if watch and not as_json:
            click.clear()
        emit(as_json, ledger_json(ledger, left), ledger_text(ledger, left["seconds_left"]))
        counts = ledger.counts()
        if not watch or not counts["running"] + counts["pending"]:
            return
        time.sleep(_WATCH_S)


@grid.command()
@click.argument("folder", metavar="DIR", default=GRID_FOLDER, type=click.Path(file_okay=False))
@click.argument("experiments", metavar="[HASH]...", nargs=-1)
@json_option
def retry(folder: str, experiments: tuple[str, ...], as_json: bool) -> None:
    """Put failed experiments back, so that the next `grid run` tries them again.

    Without HASH all failed ones. They go on from their last checkpoint.

    \b
    Examples:
      surrogate grid retry runs/mine
      surrogate grid retry runs/mine 3f2a9c51d07e88b4

    \b
    --json prints one object: grid, retried (hashes).
    """
    from surrogate import grid

    retried = grid.retry(folder, experiments)
    text = f"{len(retried)} put back"
    if retried:
        text += f"; run them with: surrogate grid run --out {folder}"
    emit(as_json, {"grid": folder, "retried": retried}, text)


grid.add_command(grid_report)
