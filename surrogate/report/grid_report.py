"""The report of a grid: what its folder holds, as one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from surrogate import machine
from surrogate.errors import SurrogateError
from surrogate.grid.folder import GridFolder
from surrogate.grid.grid import Grid
from surrogate.grid.ledger import Ledger
from surrogate.kernels import join_sizes
from surrogate.report import blog
from surrogate.report.best_models import EvaluatedRun, describe_data, evaluate_runs
from surrogate.report.drawings import draw_curves, draw_models, draw_runs
from surrogate.report.page import check_out, now, render, write_report
from surrogate.report.runs import Run, read_run
from surrogate.report.summary import (
    best_of_each,
    configuration_name,
    csv_text,
    published_row,
    ranked,
    row,
    shares,
)
from surrogate.training.epoch_scores import Epoch
from surrogate.training.run_folder import RunFolder

__all__ = ["write_grid_report"]

SECTIONS = (
    ("best", "The ten best"),
    ("size", "Score and size"),
    ("shares", "How many succeed"),
    ("roc", "ROC curves and thresholds"),
    ("spread", "Output spread"),
    ("learning", "Learning curves"),
    ("traces", "Voltage and spikes"),
    ("provenance", "Provenance"),
    ("all", "All runs"),
)


def write_grid_report(
    folder: Path,
    out: Path | None = None,
    data: Path | None = None,
    svg: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the report of the grid in ``folder``, finished or not.

    Parameters
    ----------
    folder : Path
        Of a `surrogate grid run`.
    out : Path, optional
        The page, ending in .html; by default ``report.html`` in ``folder``. The JSON and the CSV
        lie beside it.
    data : Path, optional
        The grid's data set, if it is no longer where it was.
    svg : Path, optional
        Folder that gets the figures as files too.
    say : callable
        Told what is being done.

    Returns
    -------
    dict
        What the JSON file holds, and ``files``.

    Raises
    ------
    UsageError
        If there is no grid, ``out`` ends otherwise, or ``data`` are not the grid's.
    DataError
        If ``grid.json``, a record or ``data`` is damaged, or a file cannot be written.
    """
    out = check_out(out or folder / "report.html")
    home = GridFolder(folder)
    grid = home.grid()
    ledger = Ledger(home, grid.experiments())
    runs = ranked(
        read_run(entry.experiment, home.experiment(entry.experiment.hash))
        for entry in ledger.rows.values()
        if entry.status in ("done", "unstable")
    )
    evaluated, data_found, notes = _evaluate_best(grid, runs, data, say)
    say("drawing")
    curves, unread = _learning_curves(runs)
    content = _content(ledger, grid, runs, evaluated, data_found)
    missing = [*_unfinished(ledger), *_unscored(runs), *notes, *unread]
    content["missing"] = [_without_folders(note, folder, grid) for note in missing]
    drawn = [*draw_runs(runs, content["shares"]), *draw_curves(curves), *draw_models(evaluated)]
    html = render(
        "grid.html",
        {drawing.name: drawing for drawing in drawn},
        title=f"A grid of {len(ledger.rows)} surrogates",
        sections=SECTIONS,
        origin=_origin(content["provenance"]),
        **content,
    )
    files = write_report(out, html, content, csv_text(content["runs"]), svg, drawn)
    return content | {"files": files}


def _without_folders(note: str, folder: Path, grid: Grid) -> str:
    """The message without folders: reports are passed on, and must not name places of a machine."""
    for place in (folder, Path(grid.common.data or "").parent):
        if place.name:
            note = note.replace(f"{place}{os.sep}", "")
    return note


def _evaluate_best(
    grid: Grid, runs: Sequence[Run], data: Path | None, say: Callable[[str], None]
) -> tuple[list[EvaluatedRun], dict[str, Any] | None, list[str]]:
    """The best model of each architecture on the validation trials, the data, what is missing."""
    best = best_of_each(runs, lambda run: run.arch)
    try:
        dataset = grid.open_data(data)
    except SurrogateError as error:
        if data is not None:
            raise
        return [], None, [f"ROC curves, thresholds, traces and the amount of data: {error}"]
    with dataset:
        if best:
            names = ", ".join(map(configuration_name, best))
            say(f"running the best models over the validation trials: {names}")
        evaluated, notes = evaluate_runs(best, dataset)
        return evaluated, describe_data(dataset), notes


def _learning_curves(
    runs: Sequence[Run],
) -> tuple[list[tuple[Run, list[Epoch]]], list[str]]:
    """The metrics of the best run of each configuration, and what is missing."""
    curves, notes = [], []
    for run in best_of_each(runs, lambda run: run.experiment.configuration):
        try:
            history = RunFolder(run.folder).read_metrics()
        except SurrogateError as error:
            notes.append(f"learning curve of {configuration_name(run)}: {error}")
            continue
        if history:
            curves.append((run, history))
        else:
            notes.append(f"learning curve of {configuration_name(run)}: its metrics.jsonl is gone")
    return curves, notes


def _unfinished(ledger: Ledger) -> list[str]:
    counts = ledger.counts()
    notes = []
    if waiting := counts["running"] + counts["pending"]:
        notes.append(
            f"{waiting} of {len(ledger.rows)} experiments have not ended: they are in no table, "
            "figure or share"
        )
    failed = [entry for entry in ledger.rows.values() if entry.status == "failed"]
    return [*notes, *(f"failed: {entry.experiment.name}: {entry.error}" for entry in failed)]


def _unscored(runs: Sequence[Run]) -> list[str]:
    without = sum(run.roc_auc is None for run in runs)
    if not without:
        return []
    return [
        f"{without} of {len(runs)} finished runs have no ROC AUC: they count as below "
        f"{blog.AUC_GOAL:.2f}"
    ]


def _content(
    ledger: Ledger,
    grid: Grid,
    runs: Sequence[Run],
    evaluated: Sequence[EvaluatedRun],
    data: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the JSON file holds and the page shows."""
    rows = [row(run) for run in runs]
    hours = [run.hours for run in runs]
    return {
        "kind": "surrogate-grid-report",
        "version": 1,
        "created": now(),
        "versions": machine.versions("matplotlib"),
        "progress": {"total": len(ledger.rows), "finished": len(runs), **ledger.counts()},
        "data": data,
        "hours_per_run": [min(hours), max(hours)] if hours else None,
        "runs": rows,
        "top_ten": rows[:10],
        "configurations": [
            row(run) for run in best_of_each(runs, lambda run: run.experiment.configuration)
        ],
        "shares": {
            "by_arch": shares(runs, lambda run: run.arch, blog.SHARE_BY_ARCH),
            "by_depth": shares(runs, lambda run: len(run.hidden_sizes), blog.SHARE_BY_DEPTH),
        },
        "best_models": [_best_model(one) for one in evaluated],
        "provenance": _provenance(grid, runs),
        "blog": {
            "source": blog.SOURCE,
            "experiments": blog.EXPERIMENTS,
            "stand_in": join_sizes(blog.STAND_IN),
            "training_hours": blog.TRAINING_HOURS,
            "validation_trials": blog.VALIDATION_TRIALS,
            "auc_goal": blog.AUC_GOAL,
            "unstable_share": blog.UNSTABLE_SHARE,
            "thresholds": blog.THRESHOLDS,
            "threshold_ranges": blog.THRESHOLD_RANGES,
            "top_ten": [published_row(run) for run in blog.TOP_TEN],
        },
    }


def _best_model(best: EvaluatedRun) -> dict[str, Any]:
    return {
        "arch": best.run.arch,
        "name": configuration_name(best.run),
        "hash": best.run.experiment.hash,
        **{key: best.evaluation[key] for key in ("roc_auc", "thresholds", "spread")},
    }


def _provenance(grid: Grid, runs: Sequence[Run]) -> dict[str, Any]:
    """The grid's settings and the machines' software; of paths only the name of a recipe."""
    request = grid.request
    software: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            software.setdefault(name, set()).add(version)
    return {
        "recipe": Path(request.recipe).name,
        "overrides": request.set,
        "size_overrides": request.set_by_size,
        "seeds": request.seeds,
        "same_seeds": request.same_seeds,
        "labels": request.labels,
        "data_digest": grid.common.data_digest,
        "reuse_windows": grid.common.reuse_windows,
        "training_seconds": sum(run.seconds for run in runs),
        "providers": sorted({run.provider for run in runs}),
        "processors": sorted({run.processor for run in runs}),
        "versions": {name: sorted(found) for name, found in software.items()},
    }


def _origin(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """The same in words."""
    by_size = provenance["size_overrides"]
    return [
        ("Recipe", provenance["recipe"]),
        ("Overrides", _settings(provenance["overrides"]) or "none"),
        *((f"Overrides for {size}", _settings(values)) for size, values in by_size.items()),
        ("Seeds", _seeds_text(provenance)),
        ("Spike times", provenance["labels"]),
        ("Data, SHA-256 of the trials", provenance["data_digest"]),
        (
            "Windows come again when the data run out",
            "yes" if provenance["reuse_windows"] else "no",
        ),
        ("Training and evaluation, all runs", f"{provenance['training_seconds'] / 3600:.3g} h"),
        ("Computed by", ", ".join(provenance["providers"]) or "nothing yet"),
        ("Processors", ", ".join(provenance["processors"]) or "none yet"),
        *((name, ", ".join(found)) for name, found in provenance["versions"].items()),
        ("The blog", blog.SOURCE),
    ]


def _seeds_text(provenance: dict[str, Any]) -> str:
    count = provenance["seeds"]
    if not provenance["same_seeds"]:
        return f"{count} of each combination, its own"
    return f"0 to {count - 1}" if count > 1 else "0"


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
