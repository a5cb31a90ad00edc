"""The fault suite's engine: commands are given mutated files, in processes that may crash or hang.

A mutation is drawn from its kind's name and its number alone, so that each can be had again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.grid import surrogate_command
from surrogate.errors import SurrogateError

#: What must not happen.
FAULTS = ("traceback", "unclear", "hang", "crash", "silent change", "memory")
_CPU_S, _WALL_S = 5, 60
_MOST_BYTES, _ADDRESS_SPACE = 1 << 30, 4 << 30
_MOST_LETTERS = len("Error: ") + 300

#: Counts of each kind that ran, for the end of the test run.
COUNTERS: dict[str, Counter[str]] = {}


class Fault(Exception):
    """What must not happen has; its first argument is one of :data:`FAULTS`."""


class Refused(Exception):
    """The command refused its input in one clear line."""


@dataclass(frozen=True)
class Mutation:
    """A way to change a file or folder in place.

    ``sealed`` says that what the seal protects must read as it was, or be refused: not where the
    seal is made anew.
    """

    name: str
    change: Callable[[random.Random, Path], None]
    sealed: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of file, or of folder.

    Attributes
    ----------
    sound : Path
        An undamaged one.
    mutations : sequence of Mutation
    use : callable
        What users do with it; gives what they get from it, or raises Refused. The second argument
        is the mutation's number, for uses too slow to be tried each time.
    same : callable
        Whether what a mutated one gave is what the sound one gives.
    """

    name: str
    sound: Path
    mutations: Sequence[Mutation]
    use: Callable[[Path, int], Any]
    same: Callable[[Any, Any], bool] = lambda expected, found: bool(expected == found)


@dataclass
class Report:
    """What came of the mutations of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)


def command(*arguments: object) -> str:
    """What `surrogate` prints on stdout.

    Raises
    ------
    Refused
        If it ended with one clear line.
    Fault
        If it ended with an unclear one.
    """
    code, out, err = surrogate_command(*arguments)
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    shown = "".join([*lines, *out.splitlines()])
    if not shown.replace("\t", "").isprintable() or "Traceback" in err or "Warning" in err:
        raise Fault("unclear", f"{err[-500:]!r} {out[-500:]!r}")
    if code == 0:
        return out
    last = errors == lines[-1:] if errors else bool(out)  # data validate prints what is wrong
    if code not in (1, 2) or not last:
        raise Fault("unclear", f"exit code {code}: {err[-500:]!r}")
    if max(map(len, errors), default=0) > _MOST_LETTERS:
        raise Fault("unclear", f"{len(errors[0])} letters: {errors[0][:400]!r}")
    if "out of memory" in err:
        raise Fault("memory", errors[0])
    raise Refused(errors[0] if errors else out)


def run(kind: Kind, numbers: Sequence[int], folder: Path) -> Report:
    """Use mutated copies of ``kind``, in two processes at a time."""
    # In pairs: uses that are slow for every tenth number are divided evenly.
    parts = [[number for number in numbers if number // 2 % 2 == part] for part in range(2)]
    report = Report(Counter(dict.fromkeys(("mutations", "refused", "same", "other", *FAULTS), 0)))
    workers = [_Worker(kind, part, folder / f"worker {n}") for n, part in enumerate(parts)]
    for worker in workers:
        worker.finish(report)
    COUNTERS[kind.name] = report.counts
    return report


class _Worker:
    """A process that uses mutated copies one after another; another takes over if it dies."""

    def __init__(self, kind: Kind, numbers: Sequence[int], folder: Path) -> None:
        self._kind, self._numbers, self._folder = kind, list(numbers), folder
        self._log = folder / "log.jsonl"
        folder.mkdir(parents=True)
        self._start()

    def _start(self) -> None:
        self._log.write_text("")
        self._process = os.fork()
        if not self._process:
            try:
                _use_all(self._kind, self._numbers, self._folder, self._log)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
            os._exit(0)

    def finish(self, report: Report) -> None:
        """Add what came of all numbers."""
        while True:
            status = self._wait()
            entries = [json.loads(line) for line in self._log.read_text().splitlines()]
            ended = [entry for entry in entries if "outcome" in entry]
            for entry in ended:
                self._note(report, **entry)
            if os.WIFEXITED(status) and not os.WEXITSTATUS(status):
                return
            if not entries or "outcome" in entries[-1]:
                raise RuntimeError(f"{self._kind.name}: the sound one cannot be used")
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
            hung = name in ("SIGPROF", "SIGKILL")
            self._note(report, **entries[-1], outcome="hang" if hung else "crash", detail=name)
            self._numbers = self._numbers[len(ended) + 1 :]
            self._start()

    def _wait(self) -> int:
        """The process's status; it is killed where nothing happens for long."""
        last, size = time.monotonic(), 0
        while True:
            done, status = os.waitpid(self._process, os.WNOHANG)
            if done:
                return status
            now = self._log.stat().st_size
            last, size = (time.monotonic(), now) if now != size else (last, size)
            if time.monotonic() - last > _WALL_S:
                os.kill(self._process, signal.SIGKILL)
                return os.waitpid(self._process, 0)[1]
            time.sleep(0.02)

    def _note(self, report: Report, number: int, mutation: str, outcome: str, detail: str) -> None:
        report.counts["mutations"] += 1
        report.counts[outcome] += 1
        if outcome in FAULTS:
            where = f"{self._kind.name}, mutation {number} ({mutation})"
            report.details.append(f"{where}: {outcome}\n{detail}")


def _use_all(kind: Kind, numbers: Sequence[int], folder: Path, log: Path) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # also where C code keeps Python from running
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + _ADDRESS_SPACE, resource.RLIM_INFINITY))
    copy = folder / kind.sound.name
    _copy(kind.sound, copy)
    expected = kind.use(copy, 0)
    with log.open("a") as lines:
        for number in numbers:
            mutation = mutate(kind, number, copy)
            entry = {"number": number, "mutation": mutation.name}
            print(json.dumps(entry), file=lines, flush=True)
            outcome, detail = _use(kind, number, copy, mutation, expected)
            entry |= {"outcome": outcome, "detail": detail}
            print(json.dumps(entry), file=lines, flush=True)


def mutate(kind: Kind, number: int, copy: Path) -> Mutation:
    """Make ``copy`` the mutant of this number."""
    draw = random.Random(f"{kind.name} {number}")
    mutation = draw.choice(kind.mutations)
    _copy(kind.sound, copy)
    mutation.change(draw, copy)
    return mutation


def _copy(sound: Path, copy: Path) -> None:
    if copy.is_dir() and not copy.is_symlink():
        shutil.rmtree(copy)
    else:
        copy.unlink(missing_ok=True)
    shutil.copytree(sound, copy) if sound.is_dir() else shutil.copy(sound, copy)


def _use(kind: Kind, number: int, copy: Path, mutation: Mutation, expected: Any) -> tuple[str, str]:
    """What came of one use, and what is to be said of it."""
    before = _peak(reset=True)
    signal.setitimer(signal.ITIMER_PROF, _CPU_S)
    try:
        found = kind.use(copy, number)
    except (Refused, SurrogateError) as refusal:
        outcome, detail = "refused", str(refusal)
    except Fault as fault:
        outcome, detail = fault.args
    except BaseException:
        outcome, detail = "traceback", traceback.format_exc()[-2000:]
    else:
        same = kind.same(expected, found)
        outcome = "same" if same else "silent change" if mutation.sealed else "other"
        detail = "" if same else f"{found!r}"[:500]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _peak() - before
    return ("memory", f"{grown:,} bytes, {detail}") if grown > _MOST_BYTES else (outcome, detail)


def _peak(*, reset: bool = False) -> int:
    """The most bytes of memory that this process has held since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


#: How many mutations: by default, and as a slow test.
few_or_many = pytest.mark.parametrize(
    "count", [pytest.param(250, id="few"), pytest.param(1000, id="many", marks=pytest.mark.slow)]
)


def check(kind: Kind, count: int, folder: Path, least: float = 0.05) -> None:
    """No fault in ``count`` mutations, of which a share is refused."""
    report = run(kind, range(count), folder)
    assert not report.details, "\n\n".join(report.details[:8])
    assert report.counts["refused"] >= least * count
