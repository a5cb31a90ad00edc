"""`surrogate report` and `surrogate grid report`: results as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surrogate.cli._common import emit, json_option, say, threads_option
from surrogate.files import GRID_FOLDER

__all__ = ["grid_report", "report"]

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

_OUT = click.option(
    "--out",
    type=FILE,
    metavar="FILE.html",
    help="The page [default: report.html in the same folder].",
)
_SVG = click.option(
    "--svg", type=FOLDER, metavar="DIR", help="Write each figure there, too, as an SVG file."
)

_HELP = """Write a report about one model: one HTML file that needs no network.

MODEL is a model.safetensors that `surrogate train` wrote. The page holds its card, its scores on
unseen trials, ROC curve and thresholds, output spread, voltage and spike traces, and, with the
run's folder around the model, its learning curve. The same as JSON, and the scores as CSV, lie
beside it.

\b
Examples:
  surrogate report runs/lstm/model.safetensors
  surrogate report runs/lstm/model.safetensors --data l5pc.h5 --split test --out lstm.html
  surrogate report runs/lstm/model.safetensors --svg figures --json

\b
--json prints what the JSON file holds: kind, version, created, versions, model {name, arch,
hidden_sizes, parameters, recipe, seed, data, versions}, scores (the keys of
`surrogate evaluate --json`), missing [what could not be shown], and files {html, json, csv, svg}.
"""

_GRID_HELP = """Write a report about a grid, finished or not: one HTML file that needs no network.

DIR is the folder of a `surrogate grid run`. The page holds the ten best runs beside the blog's,
score against size, shares of runs that succeed, ROC curves with thresholds, output spread, learning
curves, traces of the best models, and where it all comes from. What a partly finished grid cannot
show yet is named. The same as JSON, and all runs as CSV, lie beside it.

\b
Examples:
  surrogate grid report
  surrogate grid report runs/grid --out blog.html --svg figures
  surrogate grid report runs/grid --data moved/l5pc.h5 --json

\b
--json prints what the JSON file holds: kind, version, created, versions, progress {total,
finished, done, unstable, running, failed, pending}, data {name, digest, train_trials, train_hours,
valid_trials, valid_spikes, trial_ms}, hours_per_run [lowest, highest], runs, top_ten,
configurations (the best run of each), shares {by_arch, by_depth}, best_models, provenance, blog
(what the post published), missing [what could not be shown], and files {html, json, csv, svg}.
"""


@click.command(help=_HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=FILE, help="Data set [default: the bundled sample].")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="valid",
    show_default=True,
    help="The trials to evaluate on.",
)
@_OUT
@_SVG
@threads_option
@json_option
def report(
    model: Path,
    data: Path | None,
    split: str,
    out: Path | None,
    svg: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    import torch

    from surrogate.report.model_report import write_model_report

    torch.set_num_threads(threads)
    result = write_model_report(model, out, data, split, svg, say)
    emit(as_json, result, _summary(result))


@click.command("report", help=_GRID_HELP)
@click.argument("folder", metavar="DIR", default=GRID_FOLDER, type=FOLDER)
@click.option("--data", type=FILE, help="The grid's data set [default: where it was].")
@_OUT
@_SVG
@threads_option
@json_option
def grid_report(
    folder: Path,
    data: Path | None,
    out: Path | None,
    svg: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    import torch

    from surrogate.report.grid_report import write_grid_report

    torch.set_num_threads(threads)
    result = write_grid_report(folder, out, data, svg, say)
    progress = result["progress"]
    counted = f"{progress['finished']} of {progress['total']} experiments\n"
    emit(as_json, result, counted + _summary(result))


def _summary(result: dict[str, Any]) -> str:
    files = result["files"]
    lines = [f"missing: {note}" for note in result["missing"]]
    lines.append(f"report: {files['html']}, {files['json']}, {files['csv']}")
    if files["svg"]:
        lines.append(f"figures: {files['svg'][0].parent}, {len(files['svg'])} SVG files")
    return "\n".join(lines)
