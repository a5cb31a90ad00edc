"""`surrogate grid`: many trainings as one resumable job."""

from __future__ import annotations

import importlib
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from surrogate.cli._common import emit, json_option, parse_settings

if TYPE_CHECKING:
    from surrogate.datasets import Dataset
    from surrogate.grid.experiment import Experiment
    from surrogate.grid.folder import GridFolder
    from surrogate.grid.grid import Grid
    from surrogate.grid.ledger import Ledger
    from surrogate.grid.scheduler import Engine

__all__ = ["grid"]

DEFAULT_FOLDER = "runs/grid"

#: How often `grid status --watch` looks, seconds.
_WATCH_S = 2.0


class _GridGroup(click.Group):
    """Finds ``report`` where it is written, and only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, "report"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "report":
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module("surrogate.cli.report")
        command: click.Command = module.grid_report
        return command


@click.group(cls=_GridGroup)
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
@click.option("--out", type=click.Path(), help=f"Grid folder [default: {DEFAULT_FOLDER}].")
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

    from surrogate.cli._grid_text import ledger_json, summary
    from surrogate.grid.folder import GridFolder
    from surrogate.grid.request import read_grid_file

    torch.set_num_threads(1)
    table = read_grid_file(options["file"]) if options["file"] else {}
    folder = GridFolder(options["out"] or table.get("out") or DEFAULT_FOLDER)
    planned, dataset = _plan(folder, table, options)
    if options["dry_run"]:
        _dry_run(as_json, folder, planned, dataset, options)
        return
    ledger = _run(folder, planned, dataset, options, table)
    counts = ledger.counts()
    emit(as_json, ledger_json(ledger), summary(ledger))
    ctx.exit(1 if counts["failed"] else 0)


def _plan(
    folder: GridFolder, table: dict[str, Any], options: dict[str, Any]
) -> tuple[Grid, Dataset]:
    """The grid that was asked for, or the one in the folder if nothing was; and its data."""
    from surrogate import datasets
    from surrogate.grid.grid import plan_grid
    from surrogate.grid.request import read_request

    asked = {key: value for key, value in table.items() if key not in ("data", "out", "slurm")}
    axes = ("arch", "hidden", "learning_rate", "class_weight", "seeds", "same_seeds")
    for key in (*axes, "recipe", "labels", "reuse_windows"):
        if options[key]:
            asked[key] = options[key]
    if options["settings"]:
        asked["set"] = dict(asked.get("set", {})) | parse_settings(options["settings"])
    where = options["data"] or table.get("data")
    if folder.exists() and not asked:
        planned = folder.grid()
        dataset = planned.open_data(where)
    else:
        dataset = datasets.open(where)
        planned = plan_grid(read_request(asked), dataset)
    return planned, dataset


def _run(
    folder: GridFolder,
    planned: Grid,
    dataset: Dataset,
    options: dict[str, Any],
    table: dict[str, Any],
) -> Ledger:
    from surrogate.cli._grid_text import Progress
    from surrogate.errors import Interrupted
    from surrogate.grid.ledger import Ledger
    from surrogate.grid.scheduler import run_grid
    from surrogate.grid.time_left import in_order
    from surrogate.training.loop import stop_on_signals

    experiments = planned.experiments()
    ledger = Ledger(folder, experiments)
    left = [one for one in experiments if ledger.rows[one.hash].status in ("pending", "running")]
    click.echo(f"grid folder: {folder.path}, {len(left)} of {len(experiments)} to run", err=True)
    if not left:
        return ledger
    engine = _engine(folder, dataset, options, table)
    try:
        folder.create(planned)
        # As a local worker would take, for want of a cluster's: the first results correct it.
        (device, *_), _ = _local_workers(options)
        folder.write_costs(_calibrate(left, dataset, device))
    except BaseException:
        engine.close()
        raise
    costs = folder.costs()
    progress = Progress(ledger, costs, engine)
    stop = threading.Event()
    try:
        with stop_on_signals(stop):
            run_grid([one.hash for one in in_order(left, costs)], ledger, engine, stop, progress)
    except Interrupted:
        counts = ledger.counts()
        raise Interrupted(
            f"stopped, everything is saved: {counts['done'] + counts['unstable']} of "
            f"{len(experiments)} experiments are done; continue with: surrogate grid run --out "
            f"{folder.path}"
        ) from None
    finally:
        progress.end()
    return ledger


def _local_workers(options: dict[str, Any]) -> tuple[list[str], int]:
    """The device of each local worker, and how many experiments each trains together."""
    import torch

    from surrogate.grid.local import TOGETHER_ON_A_GPU, devices

    wanted = options["device"]
    if options["engine"] == "dask" and not torch.cuda.is_available():
        wanted = None  # the GPUs are the workers'
    workers = devices(wanted, options["jobs"])
    return workers, options["together"] or (1 if workers[0] == "cpu" else TOGETHER_ON_A_GPU)


def _calibrate(experiments: list[Experiment], dataset: Dataset, device: str) -> dict[str, float]:
    from surrogate.errors import Interrupted
    from surrogate.grid.cost import calibrate

    def say(name: str) -> None:
        click.echo(f"timing {name}", err=True)

    try:
        return calibrate(experiments, dataset, device, say)
    except Interrupted:
        raise Interrupted("stopped while timing training steps, before anything began") from None


def _engine(
    folder: GridFolder, dataset: Dataset, options: dict[str, Any], table: dict[str, Any]
) -> Engine:
    from surrogate.errors import UsageError
    from surrogate.grid.local import TOGETHER_ON_A_GPU
    from surrogate.grid.request import read_grid_file

    data = None if dataset.is_sample else str(dataset.path)
    if options["engine"] == "local":
        from surrogate.grid.local import LocalEngine

        for name in ("scheduler", "cluster", "ship_data"):
            if options[name]:
                raise UsageError(f"--{name.replace('_', '-')} needs --engine dask")
        return LocalEngine(folder.path, data, *_local_workers(options))
    from surrogate.grid.cluster import DaskEngine, connect, connect_slurm

    if options["jobs"]:
        raise UsageError("--jobs is of the local engine; a Dask cluster has its own workers")
    slurm = read_grid_file(options["cluster"]).get("slurm") if options["cluster"] else None
    slurm = slurm or table.get("slurm")
    if options["scheduler"]:
        client = connect(options["scheduler"])
    elif isinstance(slurm, dict):
        client = connect_slurm(slurm)
    else:
        raise UsageError(
            "--engine dask needs --scheduler ADDRESS, or a [slurm] table in --cluster FILE"
        )
    device = options["device"]
    together = options["together"] or (TOGETHER_ON_A_GPU if device == "cuda" else 1)
    return DaskEngine(folder.path, data, client, device, options["ship_data"], together)


def _dry_run(
    as_json: bool, folder: GridFolder, planned: Grid, dataset: Dataset, options: dict[str, Any]
) -> None:
    from surrogate.cli._grid_text import plan_json, plan_text
    from surrogate.grid.ledger import Ledger

    ledger = Ledger(folder, planned.experiments())
    experiments = [row.experiment for row in ledger.rows.values()]
    workers, together = _local_workers(options)
    costs = _calibrate(experiments, dataset, workers[0])
    plan = plan_json(ledger, costs, len(workers), together)
    emit(as_json, plan, plan_text(plan))


@grid.command()
@click.argument("folder", metavar="DIR", default=DEFAULT_FOLDER, type=click.Path(file_okay=False))
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
    from surrogate.cli._grid_text import ledger_json, ledger_text
    from surrogate.grid.folder import GridFolder
    from surrogate.grid.ledger import Ledger

    place = GridFolder(folder)
    experiments, costs = place.grid().experiments(), place.costs()
    while True:
        ledger = Ledger(place, experiments)
        if watch and not as_json:
            click.clear()
        emit(as_json, ledger_json(ledger, costs), ledger_text(ledger, costs))
        counts = ledger.counts()
        if not watch or not counts["running"] + counts["pending"]:
            return
        time.sleep(_WATCH_S)


@grid.command()
@click.argument("folder", metavar="DIR", default=DEFAULT_FOLDER, type=click.Path(file_okay=False))
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
    from surrogate.errors import UsageError
    from surrogate.grid.folder import GridFolder
    from surrogate.grid.ledger import Ledger

    place = GridFolder(folder)
    ledger = Ledger(place, place.grid().experiments())
    failed = [name for name, row in ledger.rows.items() if row.status == "failed"]
    for name in experiments:
        if name not in failed:
            raise UsageError(f"{name} is no failed experiment of {folder}; see grid status")
    retried = list(experiments) or failed
    for name in retried:
        place.experiment(name).clear_failure()
    text = f"{len(retried)} put back"
    if retried:
        text += f"; run them with: surrogate grid run --out {folder}"
    emit(as_json, {"grid": folder, "retried": retried}, text)
