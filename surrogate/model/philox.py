"""Random numbers that are a function of seed, neuron and step.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011): ten rounds of multiplications and exclusive-ors turn a 128-bit counter and a 64-bit key
into 128 random bits. ``kernels/cpu/poisson.h`` holds the same in C++.
"""

from __future__ import annotations

from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import UsageError

__all__ = ["logistic", "philox", "uniform", "whole_seed"]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(
    counter: tuple[NDArray[np.uint64], ...], key: tuple[int, int]
) -> tuple[NDArray[np.uint64], ...]:
    """Four arrays of 32-bit random words, held in uint64, from counter and key words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _HALF) ^ c3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = (k0 + _INCREMENTS[0]) & 0xFFFFFFFF, (k1 + _INCREMENTS[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform(seed: int, step: int | NDArray[np.int64], neurons: int) -> NDArray[np.float64]:
    """Numbers [neurons], uniform in [0, 1) with 53 random bits; [neurons, S] of S steps."""
    steps = np.asarray(step, np.uint64)
    words = np.zeros((4, neurons, *steps.shape), np.uint64)
    words[0] = np.arange(neurons, dtype=np.uint64).reshape(-1, *[1] * steps.ndim)
    words[1], words[2] = steps & _LOW, steps >> _HALF
    high, low, _, _ = philox(tuple(words), (seed & 0xFFFFFFFF, seed >> 32))
    return ((high >> np.uint64(5)) * 2.0**26 + (low >> np.uint64(6))) / 2.0**53


def logistic(seed: int, step: int | NDArray[np.int64], neurons: int) -> NDArray[np.float64]:
    """Numbers of the logistic distribution: below z with the probability sigmoid(z).

    Those of :func:`uniform`, u, as log(u / (1 - u)); minus infinity for 0.
    """
    u = uniform(seed, step, neurons)
    with np.errstate(divide="ignore"):
        return np.log(u) - np.log1p(-u)


def whole_seed(seed: int) -> int:
    """A seed as Python's int; raises UsageError unless it is a whole number of 64 bits."""
    # NumPy's whole numbers count as such; the template of C++ standalone takes Python's.
    if type(seed) is bool or not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed!r}: expected a whole number from 0 to 2**64 - 1")
    return int(seed)
