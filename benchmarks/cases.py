"""The cases that `surrogate bench` measures by default, and the ratios this project aims at."""

from __future__ import annotations

import torch

from surrogate.benchmarks.problems import Case
from surrogate.errors import UsageError
from surrogate.kernels import StackSpec, architecture, parse_sizes
from surrogate.kernels.architectures import L5PC_INPUTS

__all__ = ["goal", "goal_cases", "select_cases"]

_TRAIN = {
    "lstm 256-64-2": 5.0,
    "rnn 32-16-2": 20.0,
    "lstm 32-16-2": 15.0,
    "lstm 512-256-128-64-32-2": 2.5,
    "gru 256-64-2": 6.0,
}
_STEP = {
    ("lstm 256-64-2", 1): {"torch.nn": 10.0, "onnxruntime": 6.0},
    ("lstm 32-16-2", 1): {"torch.nn": 100.0, "onnxruntime": 35.0},
    ("lstm 256-64-2", 1000): {"torch.nn": 4.0},
    ("lstm 32-16-2", 1000): {"torch.nn": 12.0},
    ("rnn 32-16-2", 1000): {"torch.nn": 30.0},
}
#: Batch and bins of a training step: the blog's windows.
BATCH, STEPS = 32, 1000
NEURONS = (1, 1000)

_MOST_DENSE_BYTES = 8 * 2**30


def goal(case: Case, peer: str) -> float | None:
    """The ratio over ``peer`` to reach on one CPU thread with AVX-512, if there is one."""
    if case.device != "cpu":
        return None
    if case.mode == "train" and (case.batch, case.steps) == (BATCH, STEPS):
        return _TRAIN.get(case.config) if peer == "torch.nn" else None
    if case.mode == "step":
        return _STEP.get((case.config, case.batch), {}).get(peer)
    return None


def goal_cases() -> list[Case]:
    """Every case that has a goal."""
    training = [Case(_spec(config), "train", BATCH, STEPS) for config in _TRAIN]
    return [*training, *(Case(_spec(config), "step", neurons) for config, neurons in _STEP)]


def select_cases(
    *,
    device: str | None = None,
    arch: str | None = None,
    hidden: str | None = None,
    mode: str | None = None,
    batch: int | None = None,
    steps: int | None = None,
    neurons: int | None = None,
) -> list[Case]:
    """The cases that the options of ``surrogate bench`` ask for; None means no choice.

    Without any: a training step and single bins for 1 and 1000 neurons, of LSTM 256-64-2 and RNN
    32-16-2.

    Raises
    ------
    UsageError
        If a size does not exist, or options contradict each other or the machine.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    sequences = batch is not None or steps is not None
    if neurons is not None and (sequences or mode in ("train", "evaluate")):
        raise UsageError(
            "--neurons belongs to --mode step, --batch and --steps to --mode train or evaluate; "
            "give one or the other"
        )
    if sequences and mode == "step":
        raise UsageError("--mode step takes no --batch or --steps; give --neurons")
    if mode is None and (sequences or neurons is not None):
        mode = "train" if sequences else "step"
    cases: list[Case] = []
    for spec in _chosen_specs(arch, hidden):
        if mode in (None, "step"):
            counts = NEURONS if neurons is None else (neurons,)
            cases += [Case(spec, "step", count, 1, device) for count in counts]
        if mode != "step":
            cases.append(Case(spec, mode or "train", batch or BATCH, steps or STEPS, device))
    if too_large := [case for case in cases if case.dense_bytes > _MOST_DENSE_BYTES]:
        raise UsageError(
            f"the peers' dense input would take {too_large[0].dense_bytes / 1e9:.0f} GB; ask for "
            f"at most {_MOST_DENSE_BYTES // (too_large[0].spec.input_size * 4):,} neurons or "
            "batch x steps"
        )
    return cases


def _chosen_specs(arch: str | None, hidden: str | None) -> list[StackSpec]:
    if arch is None and hidden is None:
        return [_spec("lstm 256-64-2"), _spec("rnn 32-16-2")]
    arch = arch or "lstm"
    sizes = architecture(arch).hidden_sizes if hidden is None else parse_sizes(hidden)
    return [StackSpec(arch, sizes, L5PC_INPUTS)]


def _spec(config: str) -> StackSpec:
    arch, _, sizes = config.partition(" ")
    return StackSpec(arch, parse_sizes(sizes), L5PC_INPUTS)
