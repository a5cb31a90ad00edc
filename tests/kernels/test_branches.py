"""The input stage ``branches`` and the ELM: the specification by hand, and providers against it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.stacks import (
    EVERY,
    FAST,
    irregular_branches,
    poison_buffers,
    problem,
    values_and_gradients,
)
from surrogate.errors import UsageError
from surrogate.kernels import (
    ARCHITECTURES,
    PROVIDERS,
    SpikeEvents,
    StackSpec,
    Stepper,
    run_models,
    run_stack,
)
from surrogate.kernels.branches import Branches

INPUTS = 23


@pytest.fixture(autouse=True)
def _poisoned_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_buffers(monkeypatch)


def _spec(arch: str, stage: str, sizes: tuple[int, ...] = (5, 3, 2), **options) -> StackSpec:
    branches = None if stage == "dense" else irregular_branches(INPUTS, *stage.split())
    return StackSpec(arch, sizes, INPUTS, branches=branches, **options)


def _skip_if_lacking(provider: str, spec: StackSpec) -> None:
    reason = PROVIDERS[provider].unavailable(spec, torch.device("cpu"), torch.float64)
    if reason is not None:
        pytest.skip(reason)


each_stack = pytest.mark.parametrize(
    ("arch", "stage"),
    [
        (arch, stage)
        for arch in ARCHITECTURES
        for stage in ("dense", "relu tanh", "softplus none")
        if stage != "dense" or arch not in ("rnn", "gru", "lstm")
    ],
)


def test_the_reference_computes_what_is_published_synapse_by_synapse() -> None:
    """Traces of single synapses and the MLP on [branches, kappa m], as Spieler et al. have them."""
    branches = irregular_branches(INPUTS, "relu", "none")
    spec = StackSpec("elm", (4, 2), INPUTS, "linear", branches=branches)
    weights, events, _ = problem(spec, 1, 30)
    x = events.to_dense(INPUTS, torch.float64)[0].numpy()
    w = {name: value.detach().numpy() for name, value in weights.items()}
    tau_s, tau_m = np.exp(w["branches.log_tau"]), np.exp(w["layers.0.log_tau"])
    kappa = np.exp(-1 / tau_m)
    bias = w["layers.0.bias_ih_l0"] + w["layers.0.bias_hh_l0"]
    # The published MLP sees kappa m, so its weights are these by kappa.
    into_hidden = np.hstack([w["layers.0.weight_ih_l0"], w["layers.0.weight_hh_l0"] / kappa])
    synapses = [(c, b) for b, fed_by in enumerate(branches.channels) for c in fed_by]
    traces, m, expected = np.zeros(len(synapses)), np.zeros(4), []
    for x_t in x:
        summed = np.zeros(branches.count)
        for i, (c, b) in enumerate(synapses):
            sign, raw = branches.signs[c], w["branches.weight"][i]
            strength = sign * max(raw, 0) if sign else raw
            traces[i] = np.exp(-1 / tau_s[b]) * traces[i] + strength * x_t[c]
            summed[b] += traces[i]
        hidden = np.maximum(into_hidden @ np.concatenate([summed, kappa * m]) + bias, 0)
        change = w["layers.0.weight_out"] @ hidden + w["layers.0.bias_out"]
        m = kappa * m + 5 * (1 - kappa) * 1.7159 * np.tanh(2 / 3 * change)
        expected.append(w["head.weight"] @ m + w["head.bias"])
    outputs, final = run_stack(spec, weights, events, provider="reference")
    torch.testing.assert_close(outputs[0], torch.tensor(np.array(expected)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(final[0, spec.state_slices[0]["h"]], torch.tensor(m))


def test_softplus_tanh_and_silu_are_where_they_belong() -> None:
    branches = Branches([[0, 1]], [1, -1], "softplus", "tanh")
    spec = StackSpec("elm_silu", (1, 2), 2, "linear", branches=branches)
    weights = {name: torch.zeros(shape) for name, shape in spec.parameter_shapes().items()}
    weights["branches.weight"] = torch.tensor([0.3, -0.2])
    weights["layers.0.weight_ih_l0"] = torch.tensor([[1.5], [0.0]])
    weights["layers.0.weight_out"] = torch.tensor([[0.7, 0.0]])
    weights["head.weight"] = torch.tensor([[1.0], [0.0]])
    events = SpikeEvents.from_dense(torch.ones(1, 1, 2))
    trace = torch.tanh(F.softplus(torch.tensor(0.3)) - F.softplus(torch.tensor(-0.2)))
    kept = torch.exp(torch.tensor(-1.0))
    change = torch.tanh(2 / 3 * 0.7 * F.silu(1.5 * trace))
    outputs, _ = run_stack(spec, weights, events, provider="reference")
    torch.testing.assert_close(outputs[0, 0, 0], 5 * (1 - kept) * 1.7159 * change)


@each_stack
@pytest.mark.parametrize("head", ["recurrent", "linear"])
@pytest.mark.parametrize(
    ("sizes", "batch", "steps"),
    [((5, 3, 2), 3, 20), ((7, 2), 1, 1), ((3, 5, 4, 2), 2, 6)],
)
@pytest.mark.parametrize("provider", FAST)
def test_provider_equals_reference_in_values_and_gradients(
    provider, arch, stage, head, sizes, batch, steps
) -> None:
    spec = _spec(arch, stage, sizes, head=head)
    _skip_if_lacking(provider, spec)
    given = problem(spec, batch, steps)
    ours = values_and_gradients(spec, *given, provider)
    theirs = values_and_gradients(spec, *given, "reference")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@each_stack
@pytest.mark.parametrize("provider", FAST)
def test_provider_in_float32_stays_within_rounding_of_float64(provider, arch, stage) -> None:
    spec = _spec(arch, stage, (32, 16, 2))
    _skip_if_lacking(provider, spec)
    weights, events, state = problem(spec, 5, 50, rate=0.05)
    # Small weights: a chaotic recurrence would amplify rounding in any implementation.
    weights = {name: (value.detach() / 4).requires_grad_() for name, value in weights.items()}
    exact = values_and_gradients(spec, weights, events, state, "reference")
    single = {name: value.detach().float().requires_grad_() for name, value in weights.items()}
    rounded = values_and_gradients(
        spec, single, events, state.detach().float().requires_grad_(), provider
    )
    for a, b in zip(rounded, exact, strict=True):
        assert (a - b).abs().max() / b.abs().max().clamp(min=1) <= 2e-5


@each_stack
@pytest.mark.parametrize("provider", FAST)
def test_gradients_pass_gradcheck(provider, arch, stage) -> None:
    spec = _spec(arch, stage, (3, 2), head="linear")
    _skip_if_lacking(provider, spec)
    weights, events, state = problem(spec, 2, 4)
    names = list(weights)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        *values, state = tensors
        return run_stack(spec, dict(zip(names, values, strict=True)), events, state, provider)

    assert torch.autograd.gradcheck(run, (*weights.values(), state))


@each_stack
@pytest.mark.parametrize("provider", EVERY)
def test_chunks_with_carried_state_equal_the_whole(provider, arch, stage) -> None:
    spec = _spec(arch, stage)
    _skip_if_lacking(provider, spec)
    weights, events, state = problem(spec, 3, 13)
    whole, final = run_stack(spec, weights, events, state, provider)
    parts = []
    for start, stop in ((0, 1), (1, 6), (6, 13)):
        part, state = run_stack(spec, weights, events.slice_steps(start, stop), state, provider)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("provider", EVERY)
def test_models_give_what_each_gives_alone(provider) -> None:
    spec = _spec("elm", "softplus tanh")
    _skip_if_lacking(provider, spec)
    given = [problem(spec, 3, steps) for steps in (7, 8)]
    events = given[0][1]
    stacked = {name: torch.stack([w[name] for w, *_ in given]) for name in spec.parameter_shapes()}
    outputs, final = run_models(
        spec, stacked, events, torch.stack([s for *_, s in given]), provider
    )
    for model, (weights, _, state) in enumerate(given):
        single, last = run_stack(spec, weights, events, state, provider)
        torch.testing.assert_close(outputs[model], single, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(final[model], last, rtol=1e-13, atol=1e-13)


@each_stack
@pytest.mark.parametrize("provider", [each for each in EVERY if each.values != ("torch",)])
@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_equal_the_whole_sequence(provider, arch, stage, own_weights, threads) -> None:
    spec, neurons = _spec(arch, stage, (9, 2), head="linear"), 5
    _skip_if_lacking(provider, spec)
    given = [problem(spec, neurons, 8)[0] for _ in range(neurons if own_weights else 1)]
    for index, weights in enumerate(given):
        weights.update({name: value * (1 + 0.1 * index) for name, value in weights.items()})
    stacked = {name: torch.stack([w[name] for w in given]) for name in spec.parameter_shapes()}
    _, events, _ = problem(spec, neurons, 8)
    expected = [
        run_stack(spec, given[n % len(given)], events.slice_batch(n, 1), provider="reference")
        for n in range(neurons)
    ]
    own = stacked if own_weights else given[0]
    stepper = Stepper(spec, own, neurons, dtype=np.float64, provider=provider, threads=threads)
    lost = np.zeros(neurons, np.int64)
    counts = events.to_dense(INPUTS).int().numpy()
    for t in range(events.steps):
        stepper.step_counts(counts[:, t].copy(), lost)
        outputs = torch.cat([one[:, t] for one, _ in expected]).detach()
        np.testing.assert_allclose(stepper.outputs, outputs, rtol=0, atol=1e-11)
    final = torch.cat([last for _, last in expected]).detach()
    np.testing.assert_allclose(stepper.state, final, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [[0, 3]]}, r"branch 0 has channels \(0, 3\): expected different ones from 0"),
        ({"channels": [[1], [2, 2]]}, "branch 1 has channels"),
        ({"channels": [[], []]}, "branches without channels"),
        ({"channels": []}, "0 branches: expected 1 to 512"),
        ({"channels": [[0]] * 513}, "513 branches"),
        ({"signs": (1, -1, 2)}, "expected 1, -1 or 0 for each channel"),
        ({"weights": "exp"}, "branch weights 'exp': expected softplus or relu"),
        ({"saturation": "relu"}, "branch saturation 'relu': expected tanh or none"),
    ],
)
def test_impossible_branches_are_refused_with_value_and_range(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        Branches(**{"channels": [[0, 1], [2]], "signs": (1, -1, 0), **arguments})


def test_a_stack_on_other_channels_than_its_branches_is_refused() -> None:
    branches = irregular_branches(INPUTS)
    with pytest.raises(UsageError, match="branches of 23 channels, the stack has 24"):
        StackSpec("gru", (3, 2), 24, branches=branches)
