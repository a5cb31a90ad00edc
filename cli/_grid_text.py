"""What `surrogate grid` prints: progress, ledgers and plans."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from surrogate.errors import one_line

if TYPE_CHECKING:
    from surrogate.grid import GridProgress
    from surrogate.grid.ledger import Ledger, Row
    from surrogate.grid.task import Outcome

__all__ = [
    "GridDisplay",
    "duration",
    "ledger_json",
    "ledger_text",
    "plan_text",
    "summary",
]

#: Off a terminal, a line about the whole grid this often, seconds.
_LINE_EVERY_S = 60.0


class GridDisplay:
    """Prints a line for each finished experiment, and how the grid stands.

    On a terminal the latter is one line, written over; elsewhere one a minute.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next_line = 0.0

    def __enter__(self) -> GridDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            click.echo(err=True)

    def __call__(self, progress: GridProgress) -> None:
        outcome = progress.outcome
        if outcome is not None and outcome.status not in ("busy", "interrupted"):
            text = _ended(progress.ledger, outcome)
            click.echo(f"\r\033[K{text}" if self._terminal else text, err=True)
        if self._terminal:
            click.echo(f"\r\033[K{_standing(progress)}", err=True, nl=False)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            click.echo(_standing(progress), err=True)


def _ended(ledger: Ledger, outcome: Outcome) -> str:
    row = ledger.rows[outcome.hash]
    text = f"{row.experiment.name}: {outcome.status}"
    if row.roc_auc is not None:
        text += f", ROC AUC {row.roc_auc:.4f}"
    if row.finished is not None:
        text += f", {duration(row.seconds)}"
    return one_line(f"{text} ({outcome.message})" if outcome.message else text)


def _standing(progress: GridProgress) -> str:
    return f"{counts_text(progress.ledger)}, about {duration(progress.seconds_left)} left"


def counts_text(ledger: Ledger) -> str:
    """``"12 done, 2 running, 202 pending of 216"``."""
    parts = [
        f"{count} {status}"
        for status, count in ledger.counts().items()
        if count or status == "done"
    ]
    return f"{', '.join(parts)} of {len(ledger.rows)}"


def duration(seconds: float) -> str:
    """``"3 h 20 min"``, ``"12 min"`` or ``"40 s"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def summary(ledger: Ledger) -> str:
    """The last lines of `grid run`."""
    lines = [counts_text(ledger)]
    failed = _of(ledger, "failed")
    lines += [one_line(f"failed: {row.experiment.name}: {row.error}") for row in failed]
    if failed:
        lines.append(f"try again with: surrogate grid retry {ledger.folder.path}")
    return "\n".join([*lines, f"next: surrogate grid report {ledger.folder.path}"])


def ledger_json(ledger: Ledger, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The ledger for JSON, with ``more`` before its experiments."""
    return {
        "grid": ledger.folder.path,
        "counts": ledger.counts(),
        **(more or {}),
        "experiments": [row.to_dict() for row in ledger.rows.values()],
    }


def ledger_text(ledger: Ledger, seconds_left: float | None) -> str:
    """Configurations as rows, statuses as columns; below, what is running and what failed."""
    statuses = list(ledger.counts())
    rows = []
    for name, group in _by_configuration(ledger).items():
        found = [sum(row.status == status for row in group) for status in statuses]
        best = max((row.roc_auc for row in group if row.roc_auc is not None), default=None)
        rows.append([name, *(str(n or "-") for n in found), "-" if best is None else f"{best:.4f}"])
    lines = [_table(["configuration", *statuses, "best ROC AUC"], rows)]
    for row in _of(ledger, "running"):
        lines.append(one_line(f"running on {row.host}: {row.experiment.name}, {row.progress:.0%}"))
    for row in _of(ledger, "failed"):
        lines.append(one_line(f"failed {row.experiment.hash}: {row.experiment.name}: {row.error}"))
    ending = "" if seconds_left is None else f", about {duration(seconds_left)} left"
    return "\n".join([*lines, counts_text(ledger) + ending])


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan for people: a line for each configuration."""
    from surrogate.kernels import join_sizes

    groups: dict[str, list[dict[str, Any]]] = {}
    for one in plan["experiments"]:
        name = f"{one['arch']} {join_sizes(one['hidden_sizes'])}"
        groups.setdefault(name, []).append(one)
    rows = []
    for name, group in groups.items():
        done = sum(one["status"] in ("done", "unstable") for one in group)
        failed = sum(one["status"] == "failed" for one in group)
        seconds = [one["estimated_seconds"] for one in group]
        rows.append(
            [
                name,
                f"{group[0]['parameters']:,}",
                *(str(n or "-") for n in (done, failed, len(group) - done - failed)),
                duration(seconds[0]),
                duration(sum(seconds)),
            ]
        )
    titles = ["configuration", "parameters", "done", "failed", "to run", "one takes", "all take"]
    counts = plan["counts"]
    left = counts["pending"] + counts["running"]
    return "\n".join(
        [
            _table(titles, rows),
            f"{len(plan['experiments'])} experiments in {plan['grid']}, {left} to run: about "
            f"{duration(3600 * plan['estimated_hours'])} with {plan['jobs']} workers here, "
            f"{plan['disk_bytes'] / 1e9:.1f} GB of disk",
        ]
    )


def _of(ledger: Ledger, status: str) -> list[Row]:
    return [row for row in ledger.rows.values() if row.status == status]


def _by_configuration(ledger: Ledger) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in ledger.rows.values():
        groups.setdefault(row.experiment.configuration, []).append(row)
    return groups


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the rest to the right."""
    widths = [max(len(line[i]) for line in [titles, *rows]) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [titles, *rows]
    )
