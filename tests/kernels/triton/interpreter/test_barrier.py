"""The barrier among programs, with the programs taking turns in several orders."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from helpers.cooperative import ORDERS, cooperative
from surrogate.kernels.triton.barrier import group_barrier

MEMBERS, ROUNDS, POLLS = 4, 3, 50


@triton.jit
def _exchange(
    slots,  # [groups, ROUNDS, MEMBERS]
    sums,  # as slots
    arrived,
    failed,
    MEMBERS: tl.constexpr,
    ROUNDS: tl.constexpr,
    POLLS: tl.constexpr,
    WAIT: tl.constexpr,
):
    """Each round every member writes a number that depends on all numbers of the round before."""
    me = tl.program_id(1)
    slots += tl.program_id(0) * (ROUNDS * MEMBERS)
    sums += tl.program_id(0) * (ROUNDS * MEMBERS)
    arrived += tl.program_id(0)
    total = tl.program_id(0) + 1
    for turn in range(ROUNDS):
        tl.store(slots + turn * MEMBERS + me, total * (me + 1))
        if WAIT:
            group_barrier(arrived, failed, MEMBERS, POLLS)
        total = tl.sum(tl.load(slots + turn * MEMBERS + tl.arange(0, MEMBERS)), 0)
        tl.store(sums + turn * MEMBERS + me, total)


def _run(order, *, counter=0, missing=(), wait=True, failed=0):
    """The sums that 2 groups of 4 programs found, and the error flag."""
    slots, sums = (torch.full((2, ROUNDS, MEMBERS), -1, dtype=torch.int32) for _ in range(2))
    arrived = torch.full((2,), counter, dtype=torch.int32)
    flag = torch.tensor([failed], dtype=torch.int32)
    with cooperative(order, missing):
        _exchange[(2, MEMBERS)](slots, sums, arrived, flag, MEMBERS, ROUNDS, POLLS, wait)
    return sums, flag.item()


def _expected():
    """1 + 2 + 3 + 4 times the round before, which begins with the group's number."""
    turns = torch.tensor([10, 100, 1000], dtype=torch.int32)
    return (turns * torch.tensor([[1], [2]], dtype=torch.int32))[..., None].expand(2, 3, 4)


@pytest.mark.parametrize("order", ORDERS)
def test_members_see_everything_written_before_the_barrier(order) -> None:
    sums, failed = _run(order)
    assert torch.equal(sums, _expected())
    assert not failed


@pytest.mark.parametrize("order", ORDERS)
def test_without_the_barrier_members_miss_each_other(order) -> None:
    # Shows that the test above would notice a barrier that does not wait.
    sums, _ = _run(order, wait=False)
    assert not torch.equal(sums, _expected())


@pytest.mark.parametrize("order", ORDERS)
def test_counter_may_wrap_around(order) -> None:
    # 2 groups meet 3 times each: 12 arrivals pass the largest int32 in between.
    sums, failed = _run(order, counter=2**31 - 4)
    assert torch.equal(sums, _expected())
    assert not failed


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("missing", [0, 5])
def test_missing_program_sets_the_flag_and_nobody_waits_forever(order, missing) -> None:
    _, failed = _run(order, missing=[missing])
    assert failed == 1


def test_nobody_waits_for_long_once_the_flag_is_set(monkeypatch) -> None:
    # 7 programs arrive 3 times each: an arrival, 16 polls, a look at the flag, and one to set it.
    monkeypatch.setattr("helpers.cooperative._MOST_SWITCHES", 7 * ROUNDS * 19)
    _, failed = _run("round robin", missing=[0], failed=1)
    assert failed == 1
    monkeypatch.setattr("helpers.cooperative._MOST_SWITCHES", 3 * ROUNDS * 19)
    with pytest.raises(InterpreterError, match="did not end"):
        _run("round robin", missing=[0])
