"""All GPU measurements in one run: ``python -m surrogate.benchmarks.gpu_suite --out FILE.json``.

First every kernel is compared with the float64 reference, in all 18 configurations; then come a
training step against cuDNN in three precisions, single bins of 1, 1000 and 2^20 neurons, and a
dozen trainings in one launch against one after the other. Goals come first, the file is written
again after every row, and rows that fail, or have no time left, are listed with the reason. What
disagrees with the reference is not timed. Checks run in several processes, because they mostly
compile, and because an error in one then does not affect the others.

``--dry-run`` needs no GPU: it lists the rows with the cost model's predictions.
"""

from __future__ import annotations

import datetime
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from surrogate.benchmarks.bench import bench, versions
from surrogate.benchmarks.contenders import Contender, OurSteps, allow_tf32, ours
from surrogate.benchmarks.gpu_checks import NEURONS, Rows, checks, reason_of
from surrogate.benchmarks.measure import clock, measure, quantiles
from surrogate.benchmarks.parallel_training import measure as measure_parallel
from surrogate.benchmarks.problems import Case, Problem
from surrogate.errors import SurrogateError, UsageError
from surrogate.files import atomic_write_text
from surrogate.kernels import StackSpec
from surrogate.kernels.triton import configurations
from surrogate.kernels.triton.chips import CHIPS
from surrogate.kernels.triton.offline.cost import predict

__all__ = ["GraphSteps", "run", "suite_cases"]

BATCH, STEPS = 32, 1000
#: Runs that train in parallel, and their steps.
PARALLEL, PARALLEL_STEPS = 12, 8
#: The share of the minutes that the checks may take.
_CHECKING = 0.5
#: Training steps against cuDNN to reach, by configuration.
_GOALS = {
    **{"rnn 32-16-2": 3.5, "gru 32-16-2": 3.5, "lstm 32-16-2": 3.5, "lstm 256-64-2": 6.0},
    "lstm 128-64-64-64-32-2": 8.0,
    "lstm 256-128-64-32-16-2": 8.0,
    "lstm 512-256-128-64-32-2": 8.0,
}


def suite_cases(device: str = "cuda") -> list[Case]:
    """What is timed, configurations with a goal first."""
    specs = configurations()
    by_goal = sorted(specs, key=lambda spec: goal(Case(spec, "train", BATCH, STEPS)) is None)
    train = [Case(spec, "train", BATCH, STEPS, device) for spec in by_goal]
    one, thousand, million = NEURONS
    many = [Case(specs[0], "step", million, 1, device)]
    some = [Case(spec, "step", thousand, 1, device) for spec in by_goal]
    single = [Case(spec, "step", one, 1, device) for spec in by_goal]
    with_goal = sum(goal(case) is not None for case in train)
    return [*train[:with_goal], *many, *some, *train[with_goal:], *single]


def goal(case: Case) -> float | None:
    """The ratio over the faster cuDNN of like precision to reach on an H200, if there is one."""
    if case.mode == "step":
        return 10.0 if case.batch == 1000 else None
    return _GOALS.get(case.config)


class GraphSteps(OurSteps):
    """The stepwise kernels replayed from a CUDA graph that holds one pass over the bins."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.variant = "triton, CUDA graph"
        super().run()  # compiles
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().run()

    def run(self) -> None:
        self.graph.replay()


def run(
    cases: Sequence[Case],
    out: Path,
    *,
    seconds: float,
    minutes: float,
    parallel: Sequence[StackSpec] = (),
    jobs: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check and time ``cases``, and write ``out`` after every row.

    Parameters
    ----------
    cases : sequence of Case
    out : Path
        A JSON file.
    seconds : float
        To time each case for, beside preparing it.
    minutes : float
        After these no row begins.
    parallel : sequence of StackSpec
        Configurations to train a dozen of in parallel, on the first case's device.
    jobs : int
        Processes that check at the same time; with one, this one does.
    say : callable
        Called with a line of text per row.

    Returns
    -------
    dict
        What the file holds: ``date``, ``gpu``, ``versions``, ``complete``, ``broken`` (None, or
        after which row CUDA stopped working), the ``checks`` and
        ``rows`` (those of :func:`surrogate.benchmarks.bench.bench`, and ``neuron_steps_per_s``),
        ``machine``, ``parallel_training`` (rows of
        :func:`surrogate.benchmarks.parallel_training.measure`), and
        ``missing``: each row that was not measured, and why; ``notes``: the peers left out.
    """
    begun = time.monotonic()
    deadline = begun + 60 * minutes
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "complete": False,
        "broken": None,
        "checks": [],
        "rows": [],
        "parallel_training": [],
        "missing": [],
        "notes": [],
    }

    def attempt(label: str, action: Callable[[], str]) -> None:
        reason = found["broken"] or f"{minutes:g} minutes were over"
        if time.monotonic() < deadline and not found["broken"]:
            try:
                say(f"{label}: {action()}")
                reason = ""
            except Exception as error:  # whatever the error, the other rows are still measured
                reason = reason_of(error)
                found["broken"] = _broken_by(label)
                traceback.print_exc()
        if reason:
            say(f"{label}: not measured, {reason.splitlines()[0]}")
            found["missing"].append({"row": label, "reason": reason})
        _write(out, found)

    checked = list(dict.fromkeys((case.spec, case.device) for case in cases))
    with checks(jobs) as submit:
        pending = [(spec, submit(spec, device)) for spec, device in checked]
        for spec, rows in pending:
            label = f"{Case(spec, 'train', 1).config} check"
            attempt(label, partial(_take_checks, found, rows, begun + 60 * minutes * _CHECKING))
    for case in cases:
        ways: list[Callable[[Problem], Contender]] = [ours]
        if case.mode == "step" and case.device != "cpu":
            ways.append(GraphSteps)
        label = f"{case.config} {case.mode} {case.batch}"
        attempt(label, partial(_time_row, found, case, ways, seconds))
    for spec in parallel:
        label = f"{Case(spec, 'train', 1).config} in parallel"
        attempt(label, partial(_parallel_row, found, spec, cases[0].device))
    found["complete"] = not found["missing"]
    _write(out, found)
    return found


def _broken_by(label: str) -> str | None:
    """A line if the last error was of the kind after which CUDA no longer works in this process."""
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return f"CUDA broke down in this row: {label}"
    return None


def _take_checks(found: dict[str, Any], rows_of: Rows, deadline: float) -> str:
    rows = rows_of(max(0.0, deadline - time.monotonic()))
    found["checks"] += rows
    return ", ".join(f"{row['kernel']} {_agreement(row)}" for row in rows)


def _agreement(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"FAILED ({row['error'].splitlines()[0]})"
    return f"{row['parity']:.1e}{'' if row['agrees'] else ' DISAGREES'}"


def _time_row(
    found: dict[str, Any],
    case: Case,
    ways: Sequence[Callable[[Problem], Contender]],
    seconds: float,
) -> str:
    kernel = "training" if case.mode == "train" else "step as for"
    checked = [
        row
        for row in found["checks"]
        if row["config"] == case.config and row["kernel"].startswith(kernel)
    ]
    if not checked or not all(row["agrees"] for row in checked):
        raise UsageError("its kernels were not found to agree with the reference")
    measured = bench([case], seconds=seconds, make_ours=ways)
    found["machine"] = measured["machine"]
    found["notes"] = list(dict.fromkeys([*found["notes"], *measured["notes"]]))
    rows = measured["rows"] or [_alone(case, ways[0], seconds)]
    for row in rows:
        row["goal"] = goal(case)
        if case.mode == "step" and row["p50"]:
            row["neuron_steps_per_s"] = case.batch / row["p50"]
    found["rows"] += rows
    return ", ".join(_told(row) for row in rows)


def _alone(case: Case, make: Callable[[Problem], Contender], seconds: float) -> dict[str, Any]:
    """A row of ours where no peer runs; it has been compared with the reference."""
    mine = make(Problem.draw(case))
    (samples,) = measure([mine], seconds, clock(case.device))
    p20, p50, p80 = quantiles(samples)
    return case.row | {
        "provider": None,
        "p20": p20,
        "p50": p50,
        "p80": p80,
        "ratio": None,
        "ours": mine.variant,
        "device": case.device,
    }


def _parallel_row(found: dict[str, Any], spec: StackSpec, device: str) -> str:
    allow_tf32(False)  # the peer timed before may have changed it
    row = measure_parallel(spec.arch, spec.sizes_text, PARALLEL, PARALLEL_STEPS, device)
    found["parallel_training"].append(row)
    if row["ratio"] is None:
        return f"losses disagree ({row['parity']:.1e})"
    return f"{PARALLEL} runs, {row['ratio']:.2f} x one after the other"


def _told(row: dict[str, Any]) -> str:
    if row["provider"] is None:
        return f"no peer runs here ({1e6 * row['p50']:.1f} us)"
    if row["ratio"] is None:
        return f"{row['provider']} disagrees ({row['parity']:.1e})"
    return f"{row['ratio']:.2f} x {row['provider']} ({1e6 * row['p50']:.1f} us)"


def _write(out: Path, found: dict[str, Any]) -> None:
    atomic_write_text(out, json.dumps(found, indent=1) + "\n")


def _list_rows(cases: Sequence[Case], chip: str) -> Iterator[str]:
    yield f"Predicted on {chip}, not measured:"
    yield f"{'configuration':28} {'mode':6} {'size':>9} {'goal':>5}"
    for case in cases:
        count = {"neurons": case.batch} if case.mode == "step" else {"batch": case.batch}
        seconds = predict(case.spec, case.mode, steps=case.steps, chip=chip, **count)
        wanted = goal(case)
        yield (
            f"{case.config:28} {case.mode:6} {case.batch:9} "
            f"{'' if wanted is None else f'{wanted:g}x':>5}  {1e6 * seconds:12,.1f} us predicted"
        )


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Results, as JSON.")
@click.option("--only", help="Only configurations whose name contains this, such as 'lstm 256'.")
@click.option("--seconds", default=0.5, show_default=True, help="Time each row for this long.")
@click.option("--minutes", default=8.5, show_default=True, help="Begin no row after this.")
@click.option("--jobs", type=click.IntRange(min=1), help="Check in so many processes.")
@click.option("--dry-run", is_flag=True, help="List the rows with predicted times; no GPU needed.")
@click.option("--chip", type=click.Choice(list(CHIPS)), default="H200", help="What to predict for.")
def main(
    out: Path | None,
    only: str | None,
    seconds: float,
    minutes: float,
    jobs: int | None,
    dry_run: bool,
    chip: str,
) -> None:
    """Check the Triton kernels on this GPU, then measure them against cuDNN."""
    cases = [case for case in suite_cases() if only is None or only in case.config]
    try:
        if not cases:
            raise UsageError(f"--only {only!r} fits no configuration; try 'lstm' or '256-64-2'")
        if dry_run:
            click.echo("\n".join(_list_rows(cases, chip)))
            return
        if out is None:
            raise UsageError("no place for the results: give --out FILE.json, or --dry-run")
        if not torch.cuda.is_available():
            raise UsageError("torch finds no CUDA GPU here; --dry-run lists the rows without one")
        specs = [case.spec for case in cases if case.mode == "train"]
        found = run(
            cases,
            out,
            seconds=seconds,
            minutes=minutes,
            parallel=specs,
            jobs=jobs or max(1, min(8, (os.cpu_count() or 1) // 2)),
            say=click.echo,
        )
    except SurrogateError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    agreeing = sum(row["agrees"] for row in found["checks"])
    click.echo(
        f"{agreeing} of {len(found['checks'])} checks agree, {len(found['rows'])} rows measured, "
        f"{len(found['missing'])} missing; written to {out}"
    )
    if agreeing < len(found["checks"]) or found["missing"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
