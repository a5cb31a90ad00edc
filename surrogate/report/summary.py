"""The tables of a grid's report: ranking, best of each configuration, shares."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from surrogate.kernels import join_sizes
from surrogate.report import blog
from surrogate.report.runs import Run

__all__ = [
    "best_of_each",
    "configuration_name",
    "csv_text",
    "published_row",
    "ranked",
    "row",
    "shares",
]


def configuration_name(run: Run) -> str:
    """``LSTM 256-64-2``."""
    return f"{run.arch.upper()} {join_sizes(run.hidden_sizes)}"


def ranked(runs: Iterable[Run]) -> list[Run]:
    """By ROC AUC, highest first; those without one last."""

    def place(run: Run) -> tuple[bool, float, str]:
        return run.roc_auc is None, -(run.roc_auc or 0.0), run.experiment.hash

    return sorted(runs, key=place)


def best_of_each(runs: Iterable[Run], key: Callable[[Run], Any]) -> list[Run]:
    """The best run of each group that has a ROC AUC, best group first."""
    best: dict[Any, Run] = {}
    for run in ranked(runs):
        if run.roc_auc is not None:
            best.setdefault(key(run), run)
    return list(best.values())


def row(run: Run) -> dict[str, Any]:
    """One run as the tables, the JSON and the CSV have it."""
    return {
        "arch": run.arch,
        "parameters": run.parameters,
        "layers": len(run.hidden_sizes),
        "hidden_sizes": join_sizes(run.hidden_sizes),
        "learning_rate": run.experiment.recipe.learning_rate,
        "class_weight": run.experiment.class_weight,
        "seed": run.experiment.seed,
        "roc_auc": run.roc_auc,
        "roc_auc_interval": run.scores.get("roc_auc_interval"),
        "average_precision": run.scores.get("average_precision"),
        "voltage_rmse_mv": run.scores.get("voltage_rmse_mv"),
        "logit_gap": (run.scores.get("spread") or {}).get("logit_gap"),
        "unstable": run.unstable,
        "unstable_reason": run.unstable_reason,
        "windows": run.windows,
        "hours": run.hours,
        "training_seconds": run.seconds,
        "provider": run.provider,
        "processor": run.processor,
        "hash": run.experiment.hash,
    }


def published_row(run: blog.PublishedRun) -> dict[str, Any]:
    """One row of the blog's table under the same keys."""
    return {
        "arch": run.arch,
        "parameters": run.parameters,
        "layers": len(run.hidden_sizes),
        "hidden_sizes": join_sizes(run.hidden_sizes),
        "learning_rate": run.learning_rate,
        "class_weight": run.class_weight,
        "roc_auc": run.roc_auc,
    }


def shares(
    runs: Sequence[Run], key: Callable[[Run], Any], published: Mapping[Any, float]
) -> list[dict[str, Any]]:
    """Per group: how many runs there are, how many reached the blog's goal, how many were unstable.

    Parameters
    ----------
    runs : sequence of Run
    key : callable
        The group of a run.
    published : mapping
        The blog's share that reached the goal, by group; its order is the table's, and groups that
        it lacks follow.
    """
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    order = [group for group in published if group in found]
    order += sorted(group for group in found if group not in published)
    return [
        {
            "group": group,
            "runs": len(found[group]),
            "reached": sum((run.roc_auc or 0) >= blog.AUC_GOAL for run in found[group]),
            "unstable": sum(run.unstable for run in found[group]),
            "blog_share": published.get(group),
        }
        for group in order
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a CSV file; an interval becomes two columns, low and high."""
    flat = [_flat(entry) for entry in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in entry.items():
        if name.endswith("_interval"):
            stem = name.removesuffix("_interval")
            flat[f"{stem}_low"], flat[f"{stem}_high"] = value or (None, None)
        else:
            flat[name] = value
    return flat
