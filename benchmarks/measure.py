"""Timing in turns, and the peak rates of the machine."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from surrogate.benchmarks.contenders import Contender

__all__ = ["Peak", "clock", "fastest", "gpu_peak", "measure", "parity", "peak", "quantiles"]

# A block of passes lasts at least this long, so that reading the clock does not count.
_BLOCK_SECONDS = 0.005
_FEWEST_ROUNDS = 3
_MOST_ROUNDS = 200


def clock(device: str, threads: int = 1) -> Callable[[], float]:
    """Seconds, by a clock that depends on what is measured.

    On one CPU thread the process's CPU time, which other processes on the machine do not lengthen;
    with more threads, where CPU time would count each of them, and on a GPU, wall time.
    """
    if device != "cpu":

        def synchronised() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronised
    return time.process_time if threads == 1 else time.perf_counter


def parity(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest max|a - b| / max|b| over tensors; infinite if one is missing or not finite."""
    if found.keys() != expected.keys():
        return float("inf")
    worst = 0.0
    for name, b in expected.items():
        a = found[name]
        if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        difference = (a.double() - b.double()).abs().max().item()
        if difference:
            worst = max(worst, difference / max(b.abs().max().item(), 1e-30))
    return worst


def measure(
    contenders: Sequence[Contender],
    seconds: float,
    now: Callable[[], float],
    progress: Callable[[float], None] = lambda share: None,
) -> list[list[float]]:
    """Time contenders in turns: a block of passes each, round after round, in one process.

    Whatever slows the machine for a while then slows all of them. The order changes from round to
    round, so that none always follows the same one.

    Parameters
    ----------
    contenders : sequence of Contender
    seconds : float
        Wall time to spend, above zero; at least three rounds are made.
    now : callable
        The clock.
    progress : callable
        Called after each block with the share of ``seconds`` that has passed.

    Returns
    -------
    list of lists of float
        Seconds per call of each contender, a sample per round.
    """
    passes = [_passes_per_block(one, now) for one in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    begun = time.perf_counter()
    for round_ in range(_MOST_ROUNDS):
        for turn in range(len(contenders)):
            index = (turn + round_) % len(contenders)
            one, count = contenders[index], passes[index]
            started = now()
            for _ in range(count):
                one.run()
            samples[index].append((now() - started) / (count * one.problem.case.calls))
            spent = time.perf_counter() - begun
            progress(min(spent / seconds, 1.0))
        if spent >= seconds and round_ + 1 >= _FEWEST_ROUNDS:
            break
    return samples


def _passes_per_block(contender: Contender, now: Callable[[], float]) -> int:
    """Passes that last a block; this warms the contender up as well."""
    count = 1
    while True:
        started = now()
        for _ in range(count):
            contender.run()
        spent = now() - started
        if spent >= _BLOCK_SECONDS:
            return count
        count *= 2


def fastest(variants: Sequence[Contender], now: Callable[[], float], seconds: float) -> Contender:
    """The variant with the lowest median in a short measurement."""
    if len(variants) == 1:
        return variants[0]
    medians = [quantiles(samples)[1] for samples in measure(variants, seconds, now)]
    return variants[int(np.argmin(medians))]


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(samples, [20, 50, 80])
    return float(p20), float(p50), float(p80)


@dataclass(frozen=True)
class Peak:
    """The highest rates of this machine in a short measurement: the denominators of every floor.

    Attributes
    ----------
    flops_per_second : float
        Of a large float32 matrix product, a multiply-add counting as two.
    bytes_per_second : float
        Of a large copy, counting what is read and what is written.
    cache_bytes : int
        Size of the last-level cache.
    """

    flops_per_second: float
    bytes_per_second: float
    cache_bytes: int


def peak(device: str, threads: int = 1, before: Peak | None = None, seconds: float = 0.2) -> Peak:
    """Measure the matrix products and copies that torch reaches here.

    Parameters
    ----------
    device : "cpu" | "cuda"
    threads : int
        CPU threads.
    before : Peak, optional
        An earlier measurement; the better of the two is kept.
    seconds : float
        To measure each for.
    """
    now = clock(device, threads)
    size = 1024 if device == "cpu" else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(a)
    product = _best(lambda: torch.mm(a, b, out=out), now, seconds)
    source = torch.zeros(2**26, device=device)
    target = torch.ones_like(source)
    copy = _best(lambda: target.copy_(source), now, seconds)
    flops, rate = 2 * size**3 / product, 2 * source.nbytes / copy
    if before is not None:
        flops = max(flops, before.flops_per_second)
        rate = max(rate, before.bytes_per_second)
    return Peak(flops, rate, _cache_bytes(device))


@functools.cache
def gpu_peak(device: str) -> Peak:
    """A GPU's peaks. One process uses it at a time, so one measurement serves all rows."""
    return peak(device)


def _cache_bytes(device: str) -> int:
    if device != "cpu":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    found = [int(path.read_text().strip().removesuffix("K")) * 1024 for path in sizes]
    return max(found, default=32 * 2**20)  # a common size, where the system gives none


def _best(call: Callable[[], object], now: Callable[[], float], seconds: float) -> float:
    """Seconds per call in the quickest block: a peak, so the minimum and not the median."""
    count, best = 1, float("inf")
    call()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        started = now()
        for _ in range(count):
            call()
        spent = now() - started
        if spent < _BLOCK_SECONDS / 10:
            count *= 2
        else:
            best = min(best, spent / count)
    return best
