"""How long a grid will still take: predicted costs, corrected by measured ones."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from surrogate.grid.experiment import Experiment
from surrogate.grid.ledger import Row
from surrogate.grid.packs import take_pack

__all__ = ["in_order", "seconds_left"]

#: Only the last few finished experiments of a configuration count: the machine may have changed.
_RECENT = 4

#: From the first share of its steps on, an experiment is used to predict a whole one; from the
#: second on if it ended there, because its time then includes the evaluation.
_TELLING, _TELLING_ENDED = 0.05, 0.2


def in_order(experiments: Iterable[Experiment], cost: Mapping[str, float]) -> list[Experiment]:
    """The order in which to run: one of each configuration first, then the rest, longest first.

    The first round measures every configuration early, which corrects the time left. Running the
    longest first avoids that at the end one core still works on a long one.

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

    If an experiment of a configuration is finished, or far enough, the others of it are taken to
    need the same time; other configurations take the predicted time, multiplied by the ratio of
    measured to predicted so far.

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

    # More may be running than this engine has workers: other engines may work on the same grid.
    running = [row for row in rows if row.status == "running"]
    busy = _tasks([(row, whole(row) * (1 - row.progress)) for row in running], together)
    ends = busy + [0.0] * (workers - len(busy))
    heapq.heapify(ends)
    pending = {row.experiment.hash: row.experiment for row in rows if row.status == "pending"}
    configuration = {name: one.configuration for name, one in pending.items()}
    seconds = {row.experiment.hash: whole(row) for row in rows if row.status == "pending"}
    waiting = deque(one.hash for one in in_order(pending.values(), seconds))
    while waiting:
        now = ends[0]
        pack = take_pack(waiting, configuration, ends.count(now), together)
        heapq.heapreplace(ends, now + max(seconds[name] for name in pack))
    return max(ends)


def _tasks(left: Iterable[tuple[Row, float]], together: int) -> list[float]:
    """Seconds left to each task, from the rows that run and the seconds left to each.

    Rows of one process and configuration train together, up to the maximum.
    """
    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for row, seconds in left:
        groups[row.host, row.process, row.experiment.configuration].append(seconds)
    return [
        seconds for group in groups.values() for seconds in sorted(group, reverse=True)[::together]
    ]


def _ratios(rows: Sequence[Row], cost: Mapping[str, float]) -> dict[str, float]:
    """Measured over predicted seconds, by configuration.

    All running experiments count, and the last few finished ones. One that became unstable before
    its last step counts by its share of steps; one that stopped early (``patience``) counts as it
    is, because the next may stop early too.
    """
    running: dict[str, list[float]] = defaultdict(list)
    finished: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        telling = _TELLING if row.status == "running" else _TELLING_ENDED
        # Experiments that had finished before the prediction have no predicted cost.
        if row.experiment.hash not in cost or row.progress < telling:
            continue
        expected = row.progress if row.status != "done" else 1.0
        ratio = row.seconds / expected / cost[row.experiment.hash]
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
