"""Compares every Triton kernel on this GPU with the reference in float64, before the suite."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surrogate.benchmarks.bench import PARITY_BOUNDS
from surrogate.benchmarks.contenders import StackContender
from surrogate.benchmarks.measure import parity
from surrogate.benchmarks.problems import Case, Problem
from surrogate.kernels import StackSpec
from surrogate.kernels.triton.chips import chip_of
from surrogate.kernels.triton.step.plan import StepPlan, plan_step
from surrogate.kernels.triton.step.stepper import TritonStepper

__all__ = ["NEURONS", "Rows", "check", "checks", "reason_of"]

#: Of a step, as many as the suite times.
NEURONS = (1, 1000, 1 << 20)
#: Sequences, neurons and bins of a check: odd, so that no tile is full; the sequences get the same
#: tiles as the 32 that are timed.
CHECK_SEQUENCES, CHECK_NEURONS, CHECK_STEPS = 27, 5, 20
#: Waits at most so many seconds for the rows of a check.
Rows = Callable[[float], list[dict[str, Any]]]


@contextlib.contextmanager
def checks(jobs: int) -> Iterator[Callable[[StackSpec, str], Rows]]:
    """A function that begins a check, and returns one that waits so many seconds for its rows."""
    if jobs == 1:
        yield lambda spec, device: lambda seconds: check(spec, device)
        return
    # A process each: after an illegal access no kernel runs in that process.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        yield lambda spec, device: pool.apply_async(check, (spec, device)).get


def check(spec: StackSpec, device: str = "cuda") -> list[dict[str, Any]]:
    """Compare each kernel of ``spec`` with the reference in float64.

    Returns
    -------
    list of dict
        ``config``, ``kernel``, ``parity`` (max|a-b| / max|b| over outputs, state and gradients;
        None if the kernel failed), ``bound``, ``agrees``, and ``error``, None or why it failed.
    """
    training = Problem.draw(Case(spec, "train", CHECK_SEQUENCES, CHECK_STEPS, device))
    kernels: dict[str, Callable[[], float]] = {"training": partial(_training_parity, training)}
    chip = chip_of(training.state.device)
    for neurons in NEURONS:
        plan = plan_step(spec, neurons, chip)
        kernels[f"step as for {neurons}"] = partial(_step_parity, spec, plan, device)
    kernels["step of counts"] = partial(_step_parity, spec, plan, device, as_counts=True)
    if spec.head == "recurrent" and len(spec.hidden_sizes) == 3:
        linear = replace(spec, head="linear")
        plan = plan_step(linear, NEURONS[1], chip)
        kernels["step with a linear head"] = partial(_step_parity, linear, plan, device)
    return [_check_row(spec, kernel, found) for kernel, found in kernels.items()]


def _check_row(spec: StackSpec, kernel: str, find: Callable[[], float]) -> dict[str, Any]:
    mode = "train" if kernel == "training" else "step"
    difference, error = None, None
    try:
        difference = find()
    except Exception as failure:  # another kernel may work
        traceback.print_exc()
        error = reason_of(failure)
    bound = PARITY_BOUNDS["float32"][mode]
    return {
        "config": Case(spec, mode, 1).config,
        "kernel": kernel,
        "parity": difference,
        "bound": bound,
        "agrees": difference is not None and difference <= bound,
        "error": error,
    }


def reason_of(error: BaseException) -> str:
    """Kind and message of what was raised."""
    return f"{type(error).__name__}: {error}"


def _training_parity(problem: Problem) -> float:
    return parity(StackContender(problem, "", "triton").values(), _exact(problem))


def _step_parity(spec: StackSpec, plan: StepPlan, device: str, as_counts: bool = False) -> float:
    # Programs that synchronise must all run at once: few neurons where many programs share one.
    neurons = max(1, min(CHECK_NEURONS, chip_of(torch.device(device)).processors // plan.split))
    problem = Problem.draw(Case(spec, "evaluate", neurons, CHECK_STEPS, device))
    return parity(_step_values(problem, plan, as_counts), _exact(problem))


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
