"""Whole trainings through the kernels' model axis, interpreted, against the same ones alone."""

from __future__ import annotations

import pytest
import torch

from helpers.together import assert_same_runs, train, trainers
from surrogate.kernels import PROVIDERS, SpikeEvents, StackSpec, run
from surrogate.kernels.triton.training import operator
from surrogate.kernels.triton.training.layout import Tiling
from surrogate.training import loop as training_loop

SMALL = {"windows_per_epoch": 2, "batch_size": 1, "window_ms": 6, "epochs": 2}


@pytest.fixture(autouse=True)
def launches(monkeypatch) -> list[int]:
    """The number of models of each launch, all of which go through the Triton kernels."""
    found: list[int] = []
    original = operator.launch_forward

    def noting(layout, tiling, projected, *arguments):
        found.append(len(projected))
        return original(layout, tiling, projected, *arguments)

    monkeypatch.setattr(operator, "launch_forward", noting)
    for module in (run, training_loop):
        monkeypatch.setattr(module, "default_provider", lambda *_, **__: "triton")
    return found


@pytest.mark.parametrize(
    ("arch", "tiling"),
    [
        ("rnn", Tiling(True, 0, 0, 1, 1, 4)),
        pytest.param("gru", Tiling(False, 16, 16, 2, 1, 4), marks=pytest.mark.slow),
        pytest.param("lstm", Tiling(True, 0, 0, 1, 1, 4), marks=pytest.mark.slow),
    ],
)
def test_models_of_one_launch_train_bit_equal_to_models_alone(
    toy_data, tmp_path, launches, monkeypatch, arch, tiling
) -> None:
    monkeypatch.setattr(operator, "choose_tiling", lambda *_: tiling)
    together = trainers(toy_data, tmp_path / "together", arch, (3, 2), **SMALL)
    train(*together)
    assert launches == [3] * (4 + 2)  # four steps, and both epochs validated
    alone = trainers(toy_data, tmp_path / "alone", arch, (3, 2), **SMALL)
    for trainer in alone:
        train(trainer)
    assert launches[6:] == [1] * 18
    assert_same_runs(together, alone)


@pytest.mark.parametrize(
    ("arch", "tiling"),
    [
        ("lstm", Tiling(True, 0, 0, 1, 1, 4)),
        ("gru", Tiling(False, 16, 16, 2, 1, 4)),
    ],
)
def test_a_model_that_is_not_finite_leaves_the_others_of_its_launch_alone(
    monkeypatch, arch, tiling
) -> None:
    monkeypatch.setattr(operator, "choose_tiling", lambda *_: tiling)
    spec = StackSpec(arch, (3, 2), input_size=5)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(3, *shape, generator=generator).requires_grad_()
        for name, shape in spec.parameter_shapes().items()
    }
    events = SpikeEvents.from_dense(torch.rand(2, 4, 5, generator=generator) < 0.5)

    def run_all() -> list[torch.Tensor]:
        outputs, final = run.run_models(spec, weights, events, torch.zeros(3, 2, spec.state_size))
        loss = outputs.sum() + final.sum()
        return [outputs, final, *torch.autograd.grad(loss, [*weights.values()])]

    sound = run_all()
    with torch.no_grad():
        for value in weights.values():
            value[1].fill_(torch.nan)
    for before, after in zip(sound, run_all(), strict=True):
        assert after[1].isnan().all()
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_the_largest_buffers_of_a_training_are_foreseen(
    toy_data, tmp_path, monkeypatch, arch
) -> None:
    kept = []
    original = operator.launch_backward

    def weigh(layout, tiling, *tensors):
        grad_slots, grad_state = original(layout, tiling, *tensors)
        hidden, memory, slots = tensors[-3:]
        kept.append(sum(one.nbytes for one in (hidden, memory, slots, grad_slots)))
        return grad_slots, grad_state

    monkeypatch.setattr(operator, "launch_backward", weigh)
    (one, *_) = trainers(toy_data, tmp_path, arch, (20, 3, 2), **{**SMALL, "epochs": 1})
    train(one)
    spec = StackSpec(arch, (20, 3, 2), 1278)
    foreseen = PROVIDERS["triton"].training_bytes(spec, batch=1, steps=6)
    assert max(kept) < foreseen < 2 * max(kept)
