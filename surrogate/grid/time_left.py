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

#: From this share of its steps on, an experiment says how long a whole one takes.
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


def seconds_left(
    rows: Sequence[Row], cost: Mapping[str, float], workers: int, together: int = 1
) -> float:
    """Wall-clock time until every experiment that has not failed is finished, seconds.

    A configuration of which an experiment is finished, or well under way, takes what that took;
    the others take what was predicted times the ratio of measured to predicted found so far.

    Parameters
    ----------
    rows : sequence of Row
    cost : mapping of str to float
        Predicted seconds of an experiment, by its hash.
    workers : int
        Tasks that run at once.
    together : int
        Experiments of one configuration that a task trains together, at most. They take what the
        longest of them takes.
    """
    ratio = _ratios(rows, cost)
    overall = sum(ratio.values()) / len(ratio) if ratio else 1.0

    def whole(row: Row) -> float:
        return cost[row.experiment.hash] * ratio.get(row.experiment.configuration, overall)

    def tasks(status: str) -> list[float]:
        left: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if row.status == status:
                left[row.experiment.configuration].append(whole(row) * (1 - row.progress))
        found = []
        for seconds in left.values():
            seconds.sort(reverse=True)
            size = min(together, -(-len(seconds) // workers)) if status == "pending" else together
            found += [seconds[first] for first in range(0, len(seconds), size)]
        return sorted(found, reverse=True)

    # More may be running than this engine has workers: other engines work on the grid, too.
    busy = tasks("running")
    ends = busy + [0.0] * (workers - len(busy))
    heapq.heapify(ends)
    for seconds in tasks("pending"):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _ratios(rows: Sequence[Row], cost: Mapping[str, float]) -> dict[str, float]:
    """Measured over predicted seconds, by configuration.

    Of what runs, all counts, of what is finished the last few. One that ended before its last step
    would have gone on at its pace.
    """
    running: dict[str, list[float]] = defaultdict(list)
    finished: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        # Unknown is the cost of what was finished before anyone predicted.
        if row.experiment.hash not in cost or row.progress < _TELLING:
            continue
        ratio = row.seconds / row.progress / cost[row.experiment.hash]
        if row.status == "running":
            running[row.experiment.configuration].append(ratio)
        elif row.finished is not None:
            finished[row.experiment.configuration].append((row.finished, ratio))
    ratios = {}
    for name in {*running, *finished}:
        recent = [ratio for _, ratio in sorted(finished[name])[-_RECENT:]]
        known = running[name] + recent[len(running[name]) :]
        ratios[name] = sum(known) / len(known)
    return ratios
