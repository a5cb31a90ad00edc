"""The launches themselves, compiled and not run: what the interpreter lets pass fails here.

Python from the provider and the stepper down to Triton's launch is the real one, and so is what
each launch is compiled from; only the GPU is pretended, so results are not computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from helpers.minimal_gated import MINIMAL_GATED
from surrogate.kernels import ARCHITECTURES, SpikeEvents, StackSpec
from surrogate.kernels.triton.step import stepper as step
from surrogate.kernels.triton.training import operator
from surrogate.kernels.triton.training.layout import choose_tiling

INPUTS, PROCESSORS = 127, 132


class _PretendedGpu:
    """What Triton asks a driver for before it compiles: an H100 that is there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def launched(monkeypatch, tmp_path) -> Iterator[list[str]]:
    """Names of the kernels that were launched; each is compiled instead of run."""
    kernels: list[Any] = []

    def launch(kernel: Any, grid: tuple[int, ...]) -> Any:
        def compile_only(*arguments: Any, **options: Any) -> Any:
            kernels.append(kernel)
            names.append(kernel.__name__)
            return kernel.warmup(*arguments, grid=grid, **options)

        return compile_only

    def tiling(layout: Any, state: torch.Tensor) -> Any:
        return choose_tiling(layout, state.shape[1], state.shape[0], PROCESSORS)

    names: list[str] = []
    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    monkeypatch.setattr(operator, "_tiling", tiling)
    monkeypatch.setattr(step, "why_not", lambda device, dtype: None)
    monkeypatch.setattr(driver, "_active", _PretendedGpu())
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield names
    for kernel in kernels:  # no real GPU may find what was compiled for the pretended one
        kernel.device_caches.clear()


def _weights(spec: StackSpec, *models: int) -> dict[str, torch.Tensor]:
    shapes = spec.parameter_shapes().items()
    return {name: torch.rand(*models, *shape).requires_grad_() for name, shape in shapes}


def _train(spec: StackSpec, models: int, batch: int, steps: int) -> None:
    events = SpikeEvents.from_dense(torch.rand(models * batch, steps, INPUTS) < 0.05)
    state = torch.zeros(models, batch, spec.state_size, requires_grad=True)
    outputs, _ = operator.run_models(spec, _weights(spec, models), events, state)
    outputs.sum().backward()


def _step(spec: StackSpec, neurons: int, own_weights: bool) -> None:
    weights = _weights(spec, neurons) if own_weights else _weights(spec)
    detached = {name: weight.detach() for name, weight in weights.items()}
    stepper = step.TritonStepper(spec, detached, neurons)
    events = SpikeEvents.from_dense(torch.rand(neurons, 1, INPUTS) < 0.05)
    stepper.step(events.channel, events.row_ptr)
    counts = torch.zeros(neurons, INPUTS, dtype=torch.int32)
    stepper.step_counts(counts, torch.zeros(neurons, dtype=torch.int64))


@pytest.mark.parametrize("head", [pytest.param("recurrent", marks=pytest.mark.slow), "linear"])
@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm", "minimal"])
def test_every_launch_of_a_stack_compiles(launched, monkeypatch, arch, head) -> None:
    monkeypatch.setitem(ARCHITECTURES, "minimal", MINIMAL_GATED)
    spec = StackSpec(arch, (17, 3, 2), INPUTS, head)
    _train(spec, models=2, batch=5, steps=3)
    _step(spec, neurons=5, own_weights=False)
    _step(spec, neurons=3, own_weights=True)
    training = {"resident_forward", "resident_backward", "gather_sum", "segment_sum"}
    assert set(launched) == training | {"step_kernel", "collect_events_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize(
    ("arch", "sizes"), [("rnn", (512, 2)), ("gru", (300, 64, 2)), ("lstm", (256, 64, 2))]
)
def test_every_launch_of_a_wide_stack_compiles(launched, arch, sizes, head) -> None:
    spec = StackSpec(arch, sizes, INPUTS, head)
    for models, batch, steps in ((1, 1, 1), (1, 32, 16)):
        _train(spec, models, batch, steps)
    for neurons in (1, 1000):
        _step(spec, neurons, own_weights=False)
    _step(spec, neurons=2, own_weights=True)
    assert {"blocked_forward", "blocked_backward", "step_kernel"} <= set(launched)
