"""All GPU measurements in one run: ``python -m surrogate.benchmarks.gpu_suite --out FILE.json``.

First every kernel is held against the float64 reference, in all 18 configurations; then come a
training step against cuDNN in three precisions, single bins of 1, 1000 and 2^20 neurons, and a
dozen trainings in one launch against one after the other. Goals come first, the file is written
anew after every row, and what fails, or has no time left, is listed with its reason. A
configuration whose kernels disagree with the reference is not timed.

``--dry-run`` needs no GPU: it lists the rows with the cost model's predictions.
"""

from __future__ import annotations

import datetime
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from surrogate.benchmarks.bench import PARITY_BOUNDS, bench, versions
from surrogate.benchmarks.contenders import Contender, OurSteps, StackContender, ours
from surrogate.benchmarks.measure import parity
from surrogate.benchmarks.problems import Case, Problem
from surrogate.benchmarks.together import measure as measure_together
from surrogate.errors import SurrogateError, UsageError
from surrogate.files import atomic_write_text
from surrogate.kernels import StackSpec
from surrogate.kernels.triton.chips import CHIPS, chip_of
from surrogate.kernels.triton.configurations import configurations
from surrogate.kernels.triton.cost import predict
from surrogate.kernels.triton.plan import StepPlan, plan_step
from surrogate.kernels.triton.step import TritonStepper

__all__ = ["GraphSteps", "check", "run", "suite_cases"]

BATCH, STEPS = 32, 1000
NEURONS = (1, 1000, 1 << 20)
#: Runs that train together, and their steps.
TOGETHER, TOGETHER_STEPS = 12, 8
#: Sequences and bins of a check; odd, so that no tile is full.
CHECK_BATCH, CHECK_STEPS = 5, 20
#: Training steps against cuDNN to reach, by configuration; and any six-layer LSTM 8.
_GOALS = {"rnn 32-16-2": 3.5, "gru 32-16-2": 3.5, "lstm 32-16-2": 3.5, "lstm 256-64-2": 6.0}


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
    return [*many, *train[:with_goal], *some, *train[with_goal:], *single]


def goal(case: Case) -> float | None:
    """The ratio over the faster cuDNN of like precision to reach on an H200, if there is one."""
    if case.mode == "step":
        return 10.0 if case.batch == 1000 else None
    if case.spec.arch == "lstm" and len(case.spec.hidden_sizes) == 6:
        return 8.0
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


def check(spec: StackSpec, device: str = "cuda") -> Iterator[dict[str, Any]]:
    """Hold each kernel of ``spec`` against the reference in float64.

    Yields
    ------
    dict
        ``config``, ``kernel``, ``parity`` (max|a-b| / max|b| over outputs, state and gradients),
        ``bound``, and ``agrees``.
    """
    training = Problem.draw(Case(spec, "train", CHECK_BATCH, CHECK_STEPS, device))
    stepping = replace(training, case=replace(training.case, mode="evaluate"))
    kernels: dict[str, Callable[[], dict[str, Tensor]]] = {
        "training": StackContender(training, "", "triton").values
    }
    for neurons in NEURONS:
        plan = plan_step(spec, neurons, chip_of(training.state.device))
        kernels[f"step as for {neurons}"] = partial(_step_values, stepping, plan, False)
    kernels["step of counts"] = partial(_step_values, stepping, plan, True)
    for kernel, values in kernels.items():
        mode, problem = ("train", training) if kernel == "training" else ("step", stepping)
        found = parity(values(), _exact(problem))
        bound = PARITY_BOUNDS["float32"][mode]
        yield {
            "config": problem.case.config,
            "kernel": kernel,
            "parity": found,
            "bound": bound,
            "agrees": found <= bound,
        }


def _exact(problem: Problem) -> dict[str, Tensor]:
    """What the reference computes in float64."""
    double = replace(
        problem,
        weights={name: weight.double() for name, weight in problem.weights.items()},
        state=problem.state.double(),
        upstream=problem.upstream.double(),
    )
    return StackContender(double, "", "reference").values()


def _step_values(problem: Problem, plan: StepPlan, as_counts: bool) -> dict[str, Tensor]:
    """Outputs of all bins and the final state, bin after bin, with the kernel of ``plan``."""
    spec, state = problem.case.spec, problem.state.clone()
    stepper = TritonStepper(spec, problem.weights, problem.case.batch, state=state, plan=plan)
    dense = problem.events.to_dense(spec.input_size, torch.int32) if as_counts else None
    lost = torch.zeros(problem.case.batch, dtype=torch.int64, device=state.device)
    outputs = []
    for t, (channel, row_ptr) in enumerate(problem.bins()):
        if dense is None:
            stepper.step(channel, row_ptr)
        else:
            stepper.step_counts(dense[:, t].contiguous(), lost)
        outputs.append(stepper.outputs.clone())
    stepper.check()
    return {"outputs": torch.stack(outputs, 1).cpu(), "state": state.cpu()}


def run(
    cases: Sequence[Case],
    out: Path,
    *,
    seconds: float,
    minutes: float,
    together: Sequence[StackSpec] = (),
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
        After these no further row is begun.
    together : sequence of StackSpec
        Configurations to train a dozen of together, on the first case's device.
    say : callable
        Called with a line of text per row.

    Returns
    -------
    dict
        What the file holds: ``date``, ``gpu``, ``versions``, ``complete``, the ``checks`` and
        ``rows`` (those of :func:`surrogate.benchmarks.bench.bench`, and ``neuron_steps_per_s``),
        ``machine``, ``together`` (rows of :func:`surrogate.benchmarks.together.measure`), and
        ``missing``: each row that was not measured, and why.
    """
    deadline = time.monotonic() + 60 * minutes
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "complete": False,
        "checks": [],
        "rows": [],
        "together": [],
        "missing": [],
    }

    def attempt(label: str, action: Callable[[], str]) -> None:
        reason = f"{minutes:g} minutes were over"
        if time.monotonic() < deadline:
            try:
                say(f"{label}: {action()}")
                reason = ""
            except Exception as error:  # whatever it is, the other rows are still worth having
                reason = f"{type(error).__name__}: {error}"
                traceback.print_exc()
        if reason:
            say(f"{label}: not measured, {reason.splitlines()[0]}")
            found["missing"].append({"row": label, "reason": reason})
        _write(out, found)

    for spec, device in {(case.spec, case.device): None for case in cases}:
        label = f"{Case(spec, 'train', 1).config} check"
        attempt(label, partial(_check_row, found, spec, device))
    for case in cases:
        ways: list[Callable[[Problem], Contender]] = [ours]
        if case.mode == "step" and case.device != "cpu":
            ways.append(GraphSteps)
        for make in ways:
            label = f"{case.config} {case.mode} {case.batch}"
            attempt(label, partial(_time_row, found, case, make, seconds))
    for spec in together:
        label = f"{Case(spec, 'train', 1).config} together"
        attempt(label, partial(_together_row, found, spec, cases[0].device))
    found["complete"] = not found["missing"]
    _write(out, found)
    return found


def _check_row(found: dict[str, Any], spec: StackSpec, device: str) -> str:
    rows = list(check(spec, device))
    found["checks"] += rows
    return ", ".join(
        f"{row['kernel']} {row['parity']:.1e}{'' if row['agrees'] else ' DISAGREES'}"
        for row in rows
    )


def _time_row(
    found: dict[str, Any], case: Case, make: Callable[[Problem], Contender], seconds: float
) -> str:
    checked = [row for row in found["checks"] if row["config"] == case.config]
    if not checked or not all(row["agrees"] for row in checked):
        raise UsageError("its kernels were not found to agree with the reference")
    measured = bench([case], seconds=seconds, make_ours=make)
    found["machine"] = measured["machine"]
    for row in measured["rows"]:
        row["goal"] = goal(case)
        if case.mode == "step" and row["p50"]:
            row["neuron_steps_per_s"] = case.batch / row["p50"]
    found["rows"] += measured["rows"]
    return ", ".join(_told(row) for row in measured["rows"])


def _together_row(found: dict[str, Any], spec: StackSpec, device: str) -> str:
    hidden = "-".join(map(str, spec.hidden_sizes))
    row = measure_together(spec.arch, hidden, TOGETHER, TOGETHER_STEPS, device)
    found["together"].append(row)
    if row["ratio"] is None:
        return f"losses disagree ({row['parity']:.1e})"
    return f"{TOGETHER} runs, {row['ratio']:.2f} x one after the other"


def _told(row: dict[str, Any]) -> str:
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
@click.option("--minutes", default=9.5, show_default=True, help="Begin no row after this.")
@click.option("--dry-run", is_flag=True, help="List the rows with predicted times; no GPU needed.")
@click.option("--chip", type=click.Choice(list(CHIPS)), default="H200", help="What to predict for.")
def main(
    out: Path | None, only: str | None, seconds: float, minutes: float, dry_run: bool, chip: str
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
        found = run(cases, out, seconds=seconds, minutes=minutes, together=specs, say=click.echo)
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
