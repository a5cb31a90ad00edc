"""What `surrogate bench` is made of: peers that compute what ours compute, timing, floors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from surrogate.benchmarks import parallel_training
from surrogate.benchmarks.contenders import Contender, ours
from surrogate.benchmarks.floor import floor_seconds, work
from surrogate.benchmarks.measure import Peak, measure, parity, peak, quantiles
from surrogate.benchmarks.peers import (
    STEP_VARIANTS,
    Precision,
    TorchSequence,
    candidates,
    peer_names,
)
from surrogate.benchmarks.problems import Case, Problem, join_state, split_state
from surrogate.kernels import StackSpec, run_stack

ARCHITECTURES = ("rnn", "gru", "lstm")


def odd_case(arch: str, mode: str) -> Case:
    """Sizes that no padding or tile fits."""
    return Case(StackSpec(arch, (7, 5, 2), 131), mode, 3, 1 if mode == "step" else 23)


def reference(problem: Problem) -> dict[str, Tensor]:
    """The specification in float64."""
    weights = {key: weight.double().requires_grad_() for key, weight in problem.weights.items()}
    state = problem.state.double()
    outputs, state = run_stack(problem.case.spec, weights, problem.events, state, "reference")
    found = {"outputs": outputs, "state": state}
    if problem.case.mode == "train":
        gradients = torch.autograd.grad(outputs, list(weights.values()), problem.upstream.double())
        found |= dict(zip(weights, gradients, strict=True))
    return {key: value.detach() for key, value in found.items()}


@pytest.mark.parametrize("mode", ["train", "evaluate", "step"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ours_and_every_variant_of_every_peer_agree_with_the_reference(
    arch: str, mode: str
) -> None:
    problem = Problem.draw(odd_case(arch, mode))
    expected = reference(problem)
    assert parity(ours(problem).values(), expected) < 1e-5
    for name in peer_names(problem.case):
        if name == "onnxruntime":
            pytest.importorskip("onnxruntime")
        for make in candidates(name, problem):
            peer = make()
            assert parity(peer.values(), expected) < 1e-5, (name, peer.variant)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["train", "evaluate", "step"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_variant_of_every_cudnn_peer_agrees_with_the_reference(arch: str, mode: str) -> None:
    problem = Problem.draw(replace(odd_case(arch, mode), device="cuda"))
    expected = {name: value.cpu() for name, value in reference(problem).items()}
    for name in peer_names(problem.case):
        bound = 1e-5 if name == "cudnn-fp32" else 5e-2
        for make in candidates(name, problem):
            peer = make()
            for _ in range(2):  # a graph's replays carry the state on; values start anew
                assert parity(peer.values(), expected) < bound, (name, peer.variant)


@pytest.mark.parametrize(
    ("precision", "bound"),
    [(Precision(multiple=8), 1e-5), (Precision(torch.float16, multiple=8), 3e-2)],
)
def test_padded_input_changes_nothing_but_the_rounding(precision: Precision, bound: float) -> None:
    problem = Problem.draw(odd_case("lstm", "train"))
    peer = TorchSequence(problem, "cudnn-fp16", precision)
    assert peer.dense.shape[-1] == 136
    assert parity(peer.values(), reference(problem)) < bound


def test_a_timed_run_carries_the_state_on_and_values_start_anew() -> None:
    problem = Problem.draw(odd_case("gru", "step"))
    for make in [lambda: ours(problem), *candidates("torch.nn", problem)]:
        contender = make()
        first = contender.values()
        contender.reset()
        contender.step(0)
        assert not torch.equal(contender.state(), problem.state)
        assert parity(contender.values(), first) == 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_onnx_graph_is_valid(arch: str) -> None:
    onnx = pytest.importorskip("onnx")
    from surrogate.model.onnx import stack_to_onnx

    problem = Problem.draw(odd_case(arch, "evaluate"))
    onnx.checker.check_model(stack_to_onnx(problem.case.spec, problem.weights), full_check=True)


def test_drawn_events_keep_the_promises_of_the_format_and_the_rate() -> None:
    problem = Problem.draw(Case(StackSpec("rnn", (4, 2), 1278), "train", 5, 400))
    problem.events.validate(1278)
    per_bin = problem.events.channel.numel() / (5 * 400)
    assert per_bin == pytest.approx(0.011 * 1278, rel=0.03)
    again = Problem.draw(problem.case)
    assert torch.equal(problem.events.channel, again.events.channel)
    assert torch.equal(problem.state, again.state)


def test_state_splits_into_the_stacks_parts_and_back() -> None:
    spec = StackSpec("lstm", (5, 3, 2), 1278)
    state = torch.arange(2.0 * spec.state_size).view(2, -1)
    parts = split_state(spec, state)
    assert [part.shape[1] for part in parts] == [5, 5, 3, 3, 2, 2]
    assert torch.equal(join_state([part[None] for part in parts]), state)


def test_bins_of_a_step_stay_few_where_they_are_large() -> None:
    assert Case(StackSpec("rnn", (2,), 1278), "step", 1).calls == 256
    assert Case(StackSpec("rnn", (2,), 1278), "step", 1000).calls == 12
    assert Case(StackSpec("rnn", (2,), 1278), "step", 100_000).calls == 2
    assert Case(StackSpec("rnn", (2,), 1278), "train", 32, 1000).calls == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": torch.tensor([1.0, 2.0])}, 0.5),
        ({"a": torch.tensor([1.0, float("nan")])}, float("inf")),
        ({"a": torch.tensor([1.0])}, float("inf")),
        ({"b": torch.tensor([1.0, 4.0])}, float("inf")),
        ({"a": torch.tensor([1.0, 4.0])}, 0.0),
    ],
)
def test_parity_is_relative_to_the_largest_value(found: dict[str, Tensor], expected: float) -> None:
    assert parity(found, {"a": torch.tensor([1.0, 4.0])}) == expected


def test_parity_of_values_that_should_be_zero_is_seen() -> None:
    assert parity({"a": torch.ones(2)}, {"a": torch.zeros(2)}) > 1e20
    assert parity({"a": torch.zeros(2)}, {"a": torch.zeros(2)}) == 0


class Scripted(Contender):
    """Moves a clock instead of computing."""

    def __init__(self, problem: Problem, name: str, seconds: float, box: dict[str, Any]) -> None:
        super().__init__(problem, name)
        self.seconds, self.box = seconds, box

    def values(self) -> dict[str, Tensor]:
        return {}

    def run(self) -> None:
        self.box["now"] += self.seconds
        self.box["order"].append(self.name)


def test_contenders_are_timed_in_turns_and_per_call() -> None:
    problem = Problem.draw(odd_case("rnn", "step"))
    box: dict[str, Any] = {"now": 0.0, "order": []}
    fast, slow = Scripted(problem, "fast", 0.002, box), Scripted(problem, "slow", 0.02, box)
    times = measure([fast, slow], 1e-9, lambda: box["now"])
    assert [len(samples) for samples in times] == [3, 3]
    assert np.allclose(times[0], 0.002 / problem.case.calls)
    assert np.allclose(times[1], 0.02 / problem.case.calls)
    warm_up = ["fast"] * (1 + 2 + 4) + ["slow"]
    fast_first, slow_first = ["fast"] * 4 + ["slow"], ["slow"] + ["fast"] * 4
    assert box["order"] == warm_up + fast_first + slow_first + fast_first


def test_quantiles_are_those_of_the_samples() -> None:
    assert quantiles([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == (2.0, 3.5, 5.0)


def test_work_counts_products_additions_and_bytes() -> None:
    spec = StackSpec("lstm", (5, 3, 2), 11)
    step = work(Case(spec, "step", 4), 9)
    products = 4 * (5 * 5 + 3 * 3 + 2 * 2 + 5 * 3 + 3 * 2)
    assert step.flops == 2 * products * 4 + 4 * 5 * 9
    weights = 4 * 5 * 9 + products + 2 * 4 * 10
    assert step.bytes == 4 * (weights + 2 * 4 * 20 + 2 * 4) + 2 * 9 + 4 * 5
    train = work(Case(spec, "train", 4, 6), 30)
    assert train.flops == 3 * 2 * products * 24 + 2 * 4 * 5 * 30


def test_floor_is_arithmetic_or_what_no_cache_holds() -> None:
    needed = work(Case(StackSpec("rnn", (2,), 3), "evaluate", 1, 1000), 0)
    assert floor_seconds(needed, Peak(1e3, 1e3, 10**9)) == needed.flops / 1e3
    assert floor_seconds(needed, Peak(1e12, 1e3, 96)) == (needed.bytes - 96) / 1e3


def test_peak_is_that_of_this_machine() -> None:
    best = peak("cpu", seconds=0.05)
    assert 1e8 < best.flops_per_second < 1e14
    assert 1e7 < best.bytes_per_second < 1e13
    assert 2**15 <= best.cache_bytes < 2**40
    unbeaten = Peak(1e15, 1e14, best.cache_bytes)
    assert peak("cpu", before=unbeaten, seconds=0.01) == unbeaten


def test_every_torch_variant_is_tried_in_a_step() -> None:
    problem = Problem.draw(Case(StackSpec("rnn", (3, 2), 5), "step", 1))
    variants = {make().variant for make in candidates("torch.nn", problem)}
    assert len(variants) == len(STEP_VARIANTS) == 4


def test_parallel_runs_are_timed_only_where_their_losses_agree(monkeypatch) -> None:
    given = ("rnn", "8-2", 3, 4, "cpu")
    changes = {"batch_size": 2, "window_ms": 50}
    row = parallel_training.measure(*given, **changes)
    assert row["parity"] == 0
    assert row["ratio"] == row["sequential_p50"] / row["parallel_p50"] > 0
    monkeypatch.setattr(parallel_training, "PARITY_BOUND", -1.0)
    assert parallel_training.measure(*given, **changes)["ratio"] is None
