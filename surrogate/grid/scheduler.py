"""Running a grid to its end: hands experiments to an engine, and deals with what comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from surrogate.errors import DataError
from surrogate.grid.ledger import Ledger
from surrogate.grid.task import Outcome
from surrogate.training import Interrupted

__all__ = ["Engine", "run_grid"]

#: How long to wait for news at a time, seconds.
_POLL_S = 1.0

#: How often to look after experiments that other processes hold, seconds.
_LOOK_S = 3.0

#: An experiment whose workers died this often has failed.
MAX_DEATHS = 3


class Engine(Protocol):
    """Where experiments run."""

    @property
    def together(self) -> int:
        """Experiments of one configuration that one task trains together, at most."""

    @property
    def slots(self) -> int:
        """Experiments that run at once."""

    @property
    def free(self) -> int:
        """Tasks that can be submitted now."""

    def submit(self, names: Sequence[str]) -> None:
        """Take the experiments with these hashes as one task."""

    def wait(self, seconds: float) -> list[Outcome]:
        """The experiments whose tasks ended, waiting for the first at most ``seconds``."""

    def close(self) -> None:
        """Let running experiments save and stop, and give everything back."""


def run_grid(
    names: Sequence[str],
    ledger: Ledger,
    engine: Engine,
    stop: threading.Event,
    report: Callable[[Outcome | None], None],
) -> None:
    """Run experiments until each is finished or has failed.

    Parameters
    ----------
    names : sequence of str
        Hashes of the experiments to run, in this order.
    ledger : Ledger
        Kept up to date.
    engine : Engine
        Closed in the end, whatever happens.
    stop : threading.Event
        Once it is set, running experiments save and stop.
    report : callable
        Called with each outcome, and with None about every second.

    Raises
    ------
    Interrupted
        If ``stop`` was set.
    DataError
        If nothing can be written any more.
    SurrogateError
        If the workers cannot do their work at all.
    """
    waiting, running, elsewhere = deque(names), set[str](), set[str]()
    deaths: Counter[str] = Counter()
    looked = time.monotonic()

    def settle(outcome: Outcome) -> None:
        name = outcome.hash
        running.discard(name)
        if outcome.status == "unwritable":
            raise DataError(f"{outcome.message}; what is finished is kept, run the grid again")
        if outcome.status == "busy":
            elsewhere.add(name)
        elif outcome.status in ("died", "interrupted"):
            deaths[name] += 1
            if deaths[name] < MAX_DEATHS:
                waiting.appendleft(name)
            else:
                error = f"{outcome.message or outcome.status}, {MAX_DEATHS} times"
                ledger.folder.experiment(name).write_failure(error)
        ledger.refresh([name])

    try:
        while waiting or running or elsewhere:
            if stop.is_set():
                raise Interrupted("interrupted")
            while waiting and engine.free > 0:
                names = _take(waiting, engine.together, ledger, deaths)
                engine.submit(names)
                running.update(names)
            for outcome in engine.wait(_POLL_S):
                settle(outcome)
                report(outcome)
            ledger.refresh(running)
            if elsewhere and time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                ledger.refresh(elsewhere)
                left = {name for name in elsewhere if ledger.rows[name].status == "pending"}
                waiting.extend(left)
                elsewhere = {name for name in elsewhere if ledger.rows[name].status == "running"}
            report(None)
    finally:
        engine.close()
        ledger.refresh(running)


def _take(
    waiting: deque[str], together: int, ledger: Ledger, deaths: Mapping[str, int]
) -> list[str]:
    """Take the next experiment out of ``waiting``, and others of its configuration with it.

    One whose worker died is tried alone, so that it takes no others with it again.
    """
    first = waiting.popleft()
    if together == 1 or deaths.get(first):
        return [first]
    wanted = ledger.rows[first].experiment.configuration
    mates = [
        name
        for name in waiting
        if ledger.rows[name].experiment.configuration == wanted and not deaths.get(name)
    ][: together - 1]
    for name in mates:
        waiting.remove(name)
    return [first, *mates]
