"""Results as tables, for a terminal and for docs/performance.md.

``python -m surrogate.benchmarks.tables RESULTS.json`` prints the latter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["call_text", "duration", "main", "markdown_table", "text_table"]


def duration(seconds: float) -> str:
    """Three digits and a unit: ``"24.1 us"``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def call_text(row: Mapping[str, Any]) -> str:
    """What a call of ``row`` computes: ``"step N=1000"`` or ``"train 32x1000"``."""
    size = f"N={row['neurons']}" if row["mode"] == "step" else f"{row['batch']}x{row['steps']}"
    return f"{row['mode']} {size}"


def text_table(found: Mapping[str, Any]) -> str:
    """The result of :func:`surrogate.benchmarks.bench.bench`, a line per row."""
    lines = [
        f"{'config':<26}{'call':<15}{'peer':<14}{'ours':>10}{'peer':>10}{'ratio':>8}"
        f"{'goal':>6}{'parity':>9}{'of floor':>10}  measured: ours / peer"
    ]
    lines += [_line(row) for row in found["rows"]]
    peaks = ", ".join(
        f"{device} {one['gflop_per_s']:,.0f} Gflop/s and {one['gbyte_per_s']:,.0f} GB/s"
        for device, one in found["machine"]["peaks"].items()
    )
    threads = found["machine"]["threads"]
    lines += ["", f"{threads} CPU thread{'s' * (threads > 1)}; torch reaches here: {peaks}"]
    return "\n".join([*lines, *found["notes"]])


def _line(row: Mapping[str, Any]) -> str:
    what = f"{row['config']:<26}{call_text(row):<15}{row['provider']:<14}"
    if row["ratio"] is None:
        return f"{what}FAILED: parity {row['parity']:.1e}, allowed {row['parity_bound']:.0e}"
    goal = "" if row["goal"] is None else f"{row['goal']:g}x"
    return (
        f"{what}{duration(row['p50']):>10}{duration(row['peer_p50']):>10}{row['ratio']:>7.1f}x"
        f"{goal:>6}{row['parity']:>9.0e}{row['floor_share']:>10.0%}  "
        f"{row['ours']} / {row['variant']}"
    )


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per configuration, a column per peer; the goal, where there is one, in brackets."""
    peers = list(dict.fromkeys(row["provider"] for row in rows))
    columns = ["configuration", "call", "ours", *(f"vs {peer}" for peer in peers)]
    lines = [_markdown([*columns, "parity", "of floor"]), "|---" * (len(columns) + 2) + "|"]
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["config"], call_text(row)), {})[row["provider"]] = row
    for (config, call), by_peer in groups.items():
        timed = [row for row in by_peer.values() if row["p50"] is not None]
        lines.append(
            _markdown(
                [
                    config,
                    call,
                    duration(timed[0]["p50"]) if timed else "not timed",
                    *(_ratio(by_peer.get(peer)) for peer in peers),
                    f"{max(row['parity'] for row in by_peer.values()):.0e}",
                    f"{timed[0]['floor_share']:.0%}" if timed else "",
                ]
            )
        )
    return "\n".join(lines)


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["ratio"] is None:
        return "FAILED"
    return f"{row['ratio']:.1f}x" + (f" ({row['goal']:g}x)" if row["goal"] else "")


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(results: Path) -> None:
    """Print RESULTS, an output of `surrogate bench --json`, as a Markdown table."""
    click.echo(markdown_table(json.loads(results.read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
