"""Run the programs of an interpreted Triton launch together, so that they can wait for each other.

Triton's interpreter runs one program after another, and a program that waits for a later one waits
forever. Here each is a thread, one of them holds the baton, and hands it on before every atomic
operation: the only places where programs that obey the memory model can see each other act.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import random
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any
from unittest import mock

from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, interpreter_builder

__all__ = ["ORDERS", "cooperative"]

#: Picks the next program among those that run, given the one that hands over.
Order = Callable[[list[int], int], int]

_MOST_SWITCHES = 200_000


def _round_robin(running: list[int], last: int) -> int:
    return next((one for one in running if one > last), running[0])


def _reversed(running: list[int], last: int) -> int:
    return next((one for one in reversed(running) if one < last), running[-1])


def _random(seed: int) -> Callable[[], Order]:
    def start() -> Order:
        choice = random.Random(seed).choice
        return lambda running, last: choice(running)

    return start


#: Each entry makes an order; a random one then starts from its seed.
ORDERS: dict[str, Callable[[], Order]] = {
    "round robin": lambda: _round_robin,
    "reversed": lambda: _reversed,
    **{f"random {seed}": _random(seed) for seed in range(2)},
}


class _Baton:
    """Lets one thread run at a time; ``hold`` and ``hand_on`` are called by the threads."""

    def __init__(self, programs: dict[int, tuple[int, int, int]], order: Order) -> None:
        self.programs = programs
        self.order = order
        self.running = sorted(programs)
        self.holder = order(self.running, -1)
        self.switches = 0
        self.moved = threading.Condition()
        self.me = threading.local()

    def hold(self, index: int) -> None:
        self.me.index = index
        with self.moved:
            self._wait(index)

    def hand_on(self) -> None:
        with self.moved:
            self.switches += 1
            if self.switches > _MOST_SWITCHES:
                raise RuntimeError(f"the programs did not end within {_MOST_SWITCHES} atomics")
            self._pass()
            self._wait(self.me.index)

    def leave(self) -> None:
        with self.moved:
            self.running.remove(self.me.index)
            if self.running:
                self._pass()

    def _pass(self) -> None:
        self.holder = self.order(self.running, self.me.index)
        self.moved.notify_all()

    def _wait(self, index: int) -> None:
        self.moved.wait_for(lambda: self.holder == index)
        interpreter_builder.grid_idx = self.programs[index]


@contextlib.contextmanager
def cooperative(order: str, missing: Collection[int] = ()) -> Iterator[None]:
    """Run every launch inside this context cooperatively, on CPU tensors.

    Parameters
    ----------
    order : str
        A key of :data:`ORDERS`.
    missing : collection of int
        Programs, numbered row by row over the grid, that never start.
    """

    def launch(executor: GridExecutor, *args: Any, **kwargs: Any) -> None:
        function = executor.fn
        known = inspect.getfullargspec(function).args
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        given = inspect.getcallargs(function, *args, **kwargs)
        grid = (*executor.grid, 1, 1)[:3]
        everywhere = dict(enumerate(itertools.product(*map(range, grid))))
        programs = {index: at for index, at in everywhere.items() if index not in missing}
        patched = interpreter._patch_lang(function)
        try:
            arguments = {
                name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
                for name, value in given.items()
            }
            interpreter_builder.set_grid_dim(*grid)
            _run_together(programs, ORDERS[order](), lambda: function(**arguments))
        finally:
            patched.restore()

    with mock.patch.object(GridExecutor, "__call__", launch):
        yield


def _run_together(
    programs: dict[int, tuple[int, int, int]], order: Order, run: Callable[[], Any]
) -> None:
    baton = _Baton(programs, order)
    failures: list[BaseException] = []

    def program(index: int) -> None:
        baton.hold(index)
        try:
            run()
        except BaseException as error:  # raised again by the thread that launched
            failures.append(error)
        finally:
            baton.leave()

    def switching(operation: Callable[..., Any]) -> Callable[..., Any]:
        def atomic(*args: Any) -> Any:
            baton.hand_on()
            return operation(*args)

        return atomic

    threads = [threading.Thread(target=program, args=(index,)) for index in programs]
    with contextlib.ExitStack() as patches:
        for name in ("create_atomic_rmw", "create_atomic_cas"):
            operation = switching(getattr(interpreter_builder, name))
            patches.enter_context(mock.patch.object(interpreter_builder, name, operation))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
