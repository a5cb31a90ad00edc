"""Resources of the kernels, found without a GPU: registers, spills and shared memory.

``python -m surrogate.kernels.triton.offline.compile_report`` compiles every kernel for the 18
configurations and two generations of GPUs, with the assembler that comes with Triton, and prints
a table. ``--json FILE`` writes the record that a test compares later versions with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton import configurations
from surrogate.kernels.triton.offline.compile_cases import BATCH, Case, cases_of

__all__ = [
    "SHARED_LIMIT",
    "Resources",
    "compile_case",
    "report",
    "worse",
]

#: Shared memory that one program may use, bytes, by compute capability: 163 KB and 227 KB (CUDA
#: C++ Programming Guide, "Technical Specifications per Compute Capability").
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Resources:
    """The resources of one program.

    Attributes
    ----------
    registers : int
        Per thread; at most 255 of the 65,536 of a multiprocessor.
    spill_bytes : int
        Registers stored to memory for lack of room, bytes per thread.
    shared_bytes : int
        Shared memory.
    warps : int
        Of 32 threads.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int


def worse(found: Resources, recorded: Resources, capability: int) -> list[str]:
    """What is worse than recorded, a phrase each; registers may exceed it by a tenth and 8.

    More shared memory than a program may use compiles nevertheless, and fails at the launch.
    """
    allowed = {"registers": recorded.registers * 1.1 + 8}
    complaints = [
        f"{name} {value}, recorded {expected}"
        for name, value in asdict(found).items()
        for expected in [getattr(recorded, name)]
        if value > allowed.get(name, expected)
    ]
    if found.shared_bytes > SHARED_LIMIT[capability]:
        complaints.append(
            f"shared_bytes {found.shared_bytes}, the limit is {SHARED_LIMIT[capability]}"
        )
    return complaints


def compile_case(case: Case, capability: int) -> Resources:
    """Compile for ``capability`` (80: A100, 90: H100 and H200) and read the assembler's log.

    Raises
    ------
    RuntimeError
        If kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), which compiles nothing.
    """
    if not isinstance(case.kernel, triton.runtime.JITFunction):
        raise RuntimeError("TRITON_INTERPRET is set: unset it, the interpreter compiles nothing")
    names = case.kernel.arg_names
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in case.signature.items()
        if kind.startswith("*") and name != "end"  # row_ptr[1:] is not aligned
    }
    source = ASTSource(case.kernel, case.signature, case.constants, aligned)
    log = io.StringIO()
    with _fresh_compiler(), contextlib.redirect_stdout(log):
        compiled = triton.compile(
            source, target=GPUTarget("cuda", capability, 32), options=case.options
        )
    return Resources(
        registers=_number(r"Used (\d+) registers", log.getvalue()),
        spill_bytes=_number(r"(\d+) bytes spill stores", log.getvalue()),
        shared_bytes=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
    )


@contextlib.contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Triton with the assembler's log on standard output, and without results of earlier runs."""
    knobs = triton.knobs
    with tempfile.TemporaryDirectory() as folder, knobs.nvidia.scope(), knobs.cache.scope():
        knobs.nvidia.dump_ptxas_log = True
        knobs.cache.dir = folder
        yield


def _number(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    if found is None:
        raise RuntimeError(f"the assembler's log does not say {pattern!r}:\n{log}")
    return int(found[1])


def report(
    specs: list[StackSpec] | None = None, capabilities: tuple[int, ...] = (80, 90)
) -> Iterator[dict[str, Any]]:
    """A row per configuration, kernel and capability, as it is compiled."""
    for spec in configurations() if specs is None else specs:
        for case in cases_of(spec):
            for capability in capabilities:
                found = compile_case(case, capability)
                yield {
                    "config": spec.name,
                    "kernel": case.name,
                    "capability": capability,
                    **asdict(found),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    head = ("configuration", "kernel", "sm", "registers", "spills", "shared", "warps")
    print("{:28} {:14} {:>3} {:>9} {:>7} {:>8} {:>5}".format(*head))
    rows = []
    for row in report():
        rows.append(row)
        print("{:28} {:14} {:3} {:9} {:7} {:8} {:5}".format(*row.values()), flush=True)
    if arguments.json:
        versions = {"triton": triton.__version__}
        record = {"versions": versions, "batch": BATCH, "rows": rows}
        text = json.dumps(record, indent=1)
        aside = arguments.json.with_name(f".{arguments.json.name}.partial")
        aside.write_text(text + "\n", encoding="utf-8")
        os.replace(aside, arguments.json)


if __name__ == "__main__":
    main()
