"""Which experiments one worker takes: one, or several of a configuration that train together."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

__all__ = ["take_pack"]


def take_pack(
    waiting: deque[str],
    configuration: Mapping[str, str],
    idle: int,
    together: int,
    alone: Collection[str] = (),
) -> list[str]:
    """Take the next experiment out of ``waiting``, and others of its configuration with it.

    A pack trains about as fast as one of its experiments, so a configuration is split only where
    workers would otherwise have no work: idle workers are divided among the configurations that
    wait.

    Parameters
    ----------
    waiting : deque of str
        Hashes of experiments, the next first; those taken are removed.
    configuration : mapping of str to str
        Of each experiment, by its hash.
    idle : int
        Workers without work, including the one that takes.
    together : int
        Experiments that a worker trains together, at most.
    alone : collection of str
        Experiments that are taken without others.
    """
    first = waiting.popleft()
    if together == 1 or first in alone:
        return [first]
    wanted = configuration[first]
    others = {configuration[name] for name in waiting} - {wanted}
    mates = [name for name in waiting if configuration[name] == wanted and name not in alone]
    workers = max(1, idle // (1 + len(others)))
    share = -(-(1 + len(mates)) // workers)
    mates = mates[: min(together, share) - 1]
    for name in mates:
        waiting.remove(name)
    return [first, *mates]
