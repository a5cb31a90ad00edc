"""How long a grid will still take: calibrated costs, corrected by what was measured."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from surrogate.grid.experiment import Experiment
from surrogate.grid.ledger import Row

__all__ = ["in_order", "seconds_left"]

#: Of a configuration's finished experiments the last few count: another machine may have gone on.
_RECENT = 4

#: From this share of its steps on, a running experiment says how long it will take.
_TELLING = 0.05


def in_order(experiments: Iterable[Experiment], cost: Mapping[str, float]) -> list[Experiment]:
    """The order in which to run: one of each configuration first, then the rest, longest first.

    The first round makes the time left honest early and shows every configuration; the longest
    first keeps the end from waiting for one of them on one core.

    Parameters
    ----------
    experiments : iterable of Experiment
    cost : mapping of str to float
        Predicted seconds of an experiment, by its hash.
    """
    longest_first = sorted(experiments, key=lambda one: -cost[one.hash])
    seen: set[str] = set()
    rounds = []
    for one in longest_first:
        rounds.append(one.configuration in seen)
        seen.add(one.configuration)
    return [one for _, one in sorted(zip(rounds, longest_first, strict=True), key=lambda x: x[0])]


def seconds_left(rows: Sequence[Row], cost: Mapping[str, float], slots: int) -> float:
    """Wall-clock time until every experiment that has not failed is finished, seconds.

    A configuration of which an experiment is finished, or well under way, takes what that took;
    the others take what was predicted times the ratio of measured to predicted found so far.

    Parameters
    ----------
    rows : sequence of Row
    cost : mapping of str to float
        Predicted seconds of an experiment, by its hash.
    slots : int
        Experiments that run at once.
    """
    ratio = _ratios(rows, cost)
    overall = sum(ratio.values()) / len(ratio) if ratio else 1.0

    def whole(row: Row) -> float:
        return cost[row.experiment.hash] * ratio.get(row.experiment.configuration, overall)

    busy = [whole(row) * (1 - row.progress) for row in rows if row.status == "running"]
    # More may be running than this engine has slots: other engines work on the grid, too.
    ends = busy + [0.0] * (slots - len(busy))
    heapq.heapify(ends)
    for seconds in sorted((whole(row) for row in rows if row.status == "pending"), reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _ratios(rows: Sequence[Row], cost: Mapping[str, float]) -> dict[str, float]:
    """Measured over predicted seconds, by configuration."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.experiment.hash not in cost:  # finished before anyone predicted
            continue
        if row.status == "running" and row.progress >= _TELLING:
            when, seconds = float("inf"), row.seconds / row.progress
        elif row.finished is not None:
            when, seconds = row.finished, row.seconds
        else:
            continue
        ratio = seconds / cost[row.experiment.hash]
        measured[row.experiment.configuration].append((when, ratio))
    recent = {name: sorted(found)[-_RECENT:] for name, found in measured.items()}
    return {name: sum(ratio for _, ratio in found) / len(found) for name, found in recent.items()}
