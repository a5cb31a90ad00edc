"""Whole trainings through the kernels' model axis, interpreted, against the same ones alone."""

from __future__ import annotations

import pytest
from together_tools import assert_same_runs, train, trainers

from surrogate.kernels import StackSpec, run, triton
from surrogate.kernels.triton import provider
from surrogate.kernels.triton.layout import StackLayout, Tiling

SMALL = {"windows_per_epoch": 2, "batch_size": 1, "window_ms": 6, "epochs": 2}


@pytest.fixture(autouse=True)
def launches(monkeypatch) -> list[int]:
    """The number of models of each launch, all of which go through the Triton kernels."""
    found: list[int] = []
    original = provider.launch_forward

    def noting(layout, tiling, projected, *arguments):
        found.append(len(projected))
        return original(layout, tiling, projected, *arguments)

    monkeypatch.setattr(provider, "launch_forward", noting)
    monkeypatch.setattr(run, "default_provider", lambda *_: "triton")
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
    monkeypatch.setattr(provider, "choose_tiling", lambda *_: tiling)
    together = trainers(toy_data, tmp_path / "together", arch, (3, 2), **SMALL)
    train(*together)
    assert launches == [3] * (4 + 2)  # four steps, and both epochs judged
    alone = trainers(toy_data, tmp_path / "alone", arch, (3, 2), **SMALL)
    for trainer in alone:
        train(trainer)
    assert launches[6:] == [1] * 18
    assert_same_runs(together, alone)


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
def test_memory_of_a_training_is_foreseen(toy_data, tmp_path, monkeypatch, arch) -> None:
    kept = []
    original = provider.launch_backward

    def weigh(layout, tiling, *tensors):
        grad_slots, grad_state = original(layout, tiling, *tensors)
        hidden, memory, slots = tensors[-3:]
        kept.append(sum(one.nbytes for one in (hidden, memory, slots, grad_slots)))
        return grad_slots, grad_state

    monkeypatch.setattr(provider, "launch_backward", weigh)
    (one, *_) = trainers(toy_data, tmp_path, arch, (20, 3, 2), **{**SMALL, "epochs": 1})
    train(one)
    assert triton.available() is None
    layout = StackLayout(arch, StackSpec(arch, (20, 3, 2)).recurrent_sizes)
    foreseen = layout.training_bytes(batch=1, steps=6)
    assert max(kept) < foreseen < 2 * max(kept)
