"""What the kernels compile to, held against the committed record."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import triton

from surrogate.kernels import StackSpec, parse_sizes
from surrogate.kernels.triton import configurations
from surrogate.kernels.triton.offline.compile_cases import cases_of
from surrogate.kernels.triton.offline.compile_report import (
    SHARED_LIMIT,
    Resources,
    compile_case,
    worse,
)

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "compile-triton-3.7.1.json"
RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
#: Every kind of kernel once: resident and blocked training, tiles, and programs that share a tile.
FAST = [
    ("rnn 32-16-2", "forward", 90),
    ("gru 32-16-2", "backward", 80),
    ("rnn 32-16-2", "step 1048576", 90),
    ("lstm 256-64-2", "forward", 90),
    ("lstm 256-64-2", "step 1", 90),
]


_ANY = Resources(registers=40, spill_bytes=0, shared_bytes=1024, warps=4)


def _row(config: str, kernel: str, capability: int) -> dict[str, Any]:
    (row,) = (
        row
        for row in RECORDED["rows"]
        if (row["config"], row["kernel"], row["capability"]) == (config, kernel, capability)
    )
    return row


def _compare(config: str, kernel: str, capability: int) -> None:
    if triton.__version__ != RECORDED["versions"]["triton"]:
        pytest.skip(f"the record is Triton {RECORDED['versions']['triton']}'s")
    arch, sizes = config.split(" ")
    spec = StackSpec(arch, parse_sizes(sizes), 1278)
    (case,) = (case for case in cases_of(spec) if case.name == kernel)
    recorded = {key: _row(config, kernel, capability)[key] for key in asdict(_ANY)}
    found = compile_case(case, capability)
    assert worse(found, Resources(**recorded), capability) == []


@pytest.mark.parametrize(("config", "kernel", "capability"), FAST)
def test_kernel_takes_no_more_than_recorded(config, kernel, capability) -> None:
    _compare(config, kernel, capability)


@pytest.mark.slow
@pytest.mark.parametrize("spec", configurations(), ids=lambda spec: spec.name)
def test_all_kernels_take_no_more_than_recorded(spec) -> None:
    for case in cases_of(spec):
        for capability in SHARED_LIMIT:
            _compare(spec.name, case.name, capability)


def test_record_is_complete_and_within_the_limits() -> None:
    expected = {
        (spec.name, case.name, capability)
        for spec in configurations()
        for case in cases_of(spec)
        for capability in SHARED_LIMIT
    }
    rows = {(row["config"], row["kernel"], row["capability"]): row for row in RECORDED["rows"]}
    assert rows.keys() == expected
    for row in rows.values():
        assert row["shared_bytes"] <= SHARED_LIMIT[row["capability"]]
        assert row["registers"] * row["warps"] * 32 <= 65536
        assert row["spill_bytes"] == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"registers": 44}, None),
        ({"registers": 80}, "registers 80, recorded 40"),
        ({"spill_bytes": 4}, "spill_bytes 4, recorded 0"),
        ({"shared_bytes": 4096}, "shared_bytes 4096, recorded 1024"),
        ({"shared_bytes": 166913}, "shared_bytes 166913, the limit is 166912"),
    ],
)
def test_what_counts_as_worse(change, complaint) -> None:
    found = worse(replace(_ANY, **change), _ANY, 80)
    assert (complaint is None) == (found == [])
    assert complaint is None or complaint in found
