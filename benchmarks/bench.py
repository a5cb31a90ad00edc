"""The rows of ``surrogate bench``: parity first, then ours and the peers in turns."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surrogate import machine
from surrogate.benchmarks.cases import goal
from surrogate.benchmarks.contenders import Contender, Unavailable, ours
from surrogate.benchmarks.floor import floor_seconds, work
from surrogate.benchmarks.measure import (
    Peak,
    clock,
    fastest,
    gpu_peak,
    measure,
    parity,
    peak,
    quantiles,
)
from surrogate.benchmarks.peers import candidates, peer_names
from surrogate.benchmarks.problems import Case, Problem

__all__ = ["PARITY_BOUNDS", "bench", "parity_bound", "versions"]

#: Largest max|a - b| / max|b| with which a speed-up is reported, by the peer's precision and mode.
#: docs/performance.md says how they were chosen.
PARITY_BOUNDS = {
    "float32": {"step": 5e-5, "evaluate": 1e-4, "train": 1e-4},
    "tf32": {"step": 2e-2, "evaluate": 2e-2, "train": 5e-2},
    "float16": {"step": 2e-2, "evaluate": 2e-2, "train": 5e-2},
}

ShareCallback = Callable[[float, str], None]


def bench(
    cases: Sequence[Case],
    *,
    seconds: float = 2.0,
    threads: int = 1,
    make_ours: Sequence[Callable[[Problem], Contender]] = (ours,),
    progress: ShareCallback = lambda share, label: None,
) -> dict[str, Any]:
    """Measure ``cases``, each against its peers.

    Parameters
    ----------
    cases : sequence of Case
    seconds : float
        Wall time to time each case for, beside preparing it; at least three rounds are timed.
    threads : int
        CPU threads of ours and of every peer.
    make_ours : sequence of callables
        What is compared with the peers, one way or several, each in rows of its own. If the first
        fails, the case fails; another is left out with a note.
    progress : callable
        Called with the share of the cases that is done and what is under way.

    Returns
    -------
    dict
        ``rows``, one per case and peer, with the keys that docs/performance.md lists; the measured
        peaks of the ``machine``; ``versions``; and ``notes``, a line for each peer left out.
    """
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    peaks: dict[str, Peak] = {}
    for index, case in enumerate(cases):

        def report(share: float, index: int = index, case: Case = case) -> None:
            progress((index + share) / len(cases), f"{case.config} {case.mode}")

        report(0.0)
        if case.device == "cpu":
            # Again before every case, because other work on the machine lowers a measured peak.
            peaks["cpu"] = peak("cpu", threads, peaks.get("cpu"))
        else:
            peaks[case.device] = gpu_peak(case.device)
        rows += _measure_case(case, seconds, threads, make_ours, notes, report)
    for row in rows:
        least = floor_seconds(row.pop("work"), peaks[row["device"]])
        row["floor_share"] = least / row["p50"] if row["p50"] else None
    return {
        "rows": rows,
        "machine": _machine(peaks, threads),
        "versions": versions(),
        "notes": list(dict.fromkeys(notes)),
    }


def parity_bound(peer: str, mode: str) -> float:
    """The largest parity with which a row of ``peer`` counts as agreeing."""
    precision = {"cudnn-tf32": "tf32", "cudnn-fp16": "float16"}.get(peer, "float32")
    return PARITY_BOUNDS[precision][mode]


def _measure_case(
    case: Case,
    seconds: float,
    threads: int,
    make_ours: Sequence[Callable[[Problem], Contender]],
    notes: list[str],
    report: Callable[[float], None],
) -> list[dict[str, Any]]:
    now = clock(case.device, threads)
    problem = Problem.draw(case)
    values = _values(problem, make_ours, notes)
    rows: list[tuple[Contender, Contender, float]] = []
    for name in peer_names(case):
        # A peer that does not run with this torch, driver or memory does not end the others.
        try:
            peer = _peer(name, problem, now, min(seconds, 0.3), notes)
            expected = peer.values()
        except (Unavailable, RuntimeError) as error:
            notes.append(_left_out(name, case, error))
            continue
        rows += [(mine, peer, parity(own, expected)) for mine, own in values.items()]
    # No speed is reported for results that differ.
    agreeing = [pair for *pair, found in rows if found <= _bound(pair[1])]
    timed = list(dict.fromkeys(contender for pair in agreeing for contender in pair))
    samples = measure(timed, seconds, now, report) if timed else []
    times = dict(zip(timed, map(quantiles, samples), strict=True))
    return [_row(mine, peer, found, times) for mine, peer, found in rows]


def _values(
    problem: Problem, make_ours: Sequence[Callable[[Problem], Contender]], notes: list[str]
) -> dict[Contender, dict[str, Tensor]]:
    """The results of each of our implementations."""
    values: dict[Contender, dict[str, Tensor]] = {}
    for make in make_ours:
        try:
            mine = make(problem)
            values[mine] = mine.values()
        except RuntimeError as error:
            if not values:
                raise
            notes.append(_left_out(getattr(make, "__name__", "ours"), problem.case, error))
    return values


def _peer(
    name: str, problem: Problem, now: Callable[[], float], seconds: float, notes: list[str]
) -> Contender:
    """Peer ``name`` in its fastest variant; ``notes`` gets a line for each that fails.

    Raises
    ------
    Unavailable
        If the peer is not installed, or no variant runs here.
    """
    ready = []
    for make in candidates(name, problem):
        try:
            contender = make()
            contender.run()
            ready.append(contender)
        except RuntimeError as error:
            notes.append(_left_out(name, problem.case, error))
    if not ready:
        raise Unavailable(notes[-1])
    return fastest(ready, now, seconds)


def _left_out(name: str, case: Case, error: Exception) -> str:
    if isinstance(error, Unavailable):
        return str(error)
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"{name} is left out of {case.config} {case.mode} {case.batch}: {reason[0]}"


def _bound(peer: Contender) -> float:
    return parity_bound(peer.name, peer.problem.case.mode)


def _row(
    mine: Contender,
    peer: Contender,
    found: float,
    times: Mapping[Contender, tuple[float, float, float]],
) -> dict[str, Any]:
    """A row of the result, with ``work`` in it until all peaks are known."""
    case = mine.problem.case
    timed = found <= _bound(peer)
    p20, p50, p80 = times[mine] if timed else (None, None, None)
    peer_p50 = times[peer][1] if timed else None
    return case.row | {
        "provider": peer.name,
        "p20": p20,
        "p50": p50,
        "p80": p80,
        "peer_p50": peer_p50,
        "ratio": peer_p50 / p50 if p50 and peer_p50 else None,
        "parity": found,
        "floor_share": None,
        "parity_bound": _bound(peer),
        "goal": goal(case, peer.name),
        "ours": mine.variant,
        "variant": peer.variant,
        "device": case.device,
        "work": work(case, mine.problem.events.channel.numel() // case.calls),
    }


def _machine(peaks: dict[str, Peak], threads: int) -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        # Other work on the machine takes cache and bandwidth, whatever the clock.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "peaks": {
            device: {
                "gflop_per_s": one.flops_per_second / 1e9,
                "gbyte_per_s": one.bytes_per_second / 1e9,
                "cache_mbyte": one.cache_bytes / 1e6,
            }
            for device, one in peaks.items()
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str | None]:
    """Versions of what a measurement depends on."""
    return machine.versions("onnxruntime", "triton") | {"cuda": torch.version.cuda}
