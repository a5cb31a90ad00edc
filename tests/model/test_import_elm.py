"""Published ELM checkpoints become models that compute and score what their authors' do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import surrogate
from helpers.grid import surrogate_command
from surrogate import datasets
from surrogate.errors import DataError, UsageError
from surrogate.kernels import SpikeEvents
from surrogate.model.imports.elm import read_elm

CONFIG = {
    "input_to_synapse_routing": "neuronio_routing",
    "learn_memory_tau": False,
    "memory_tau_max": 150.0,
    "memory_tau_min": 1.0,
    "num_branch": 45,
    "num_input": 1278,
    "num_memory": 3,
    "num_output": 2,
    "num_synapse_per_branch": 100,
}


def _state() -> dict[str, Tensor]:
    """A checkpoint with random numbers in its place."""
    generator = torch.Generator().manual_seed(4)
    position = (torch.arange(45)[:, None] * 29 + torch.arange(100)).flatten()
    valid = position < 1278
    indices = torch.where(valid, position // 2 + 639 * (position % 2), 0)
    shapes = {
        "_proto_w_s": (4500,),
        "_proto_tau_m": (3,),
        "mlp.network.0.weight": (6, 48),
        "mlp.network.0.bias": (6,),
        "mlp.network.2.weight": (3, 6),
        "mlp.network.2.bias": (3,),
        "w_y.weight": (2, 3),
        "w_y.bias": (2,),
    }
    drawn = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    return drawn | {
        "tau_s": torch.full((4500,), 5.0),
        "input_to_synapse_indices": indices,
        "valid_indices_mask": valid,
    }


def _write(folder: Path, state: object, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model_config.json").write_text(json.dumps(CONFIG | changes))
    torch.save(state, folder / "neuronio_best_model_state.pt")
    return folder


def _as_published(state: dict[str, Tensor], x: np.ndarray, activation) -> np.ndarray:
    """Outputs [steps, 2] for ``x`` [steps, 1278]: a trace per synapse, the MLP on kappa m."""
    w = {name: value.double().numpy() for name, value in state.items()}
    kappa = np.exp(-1 / (1 + 149 / (1 + np.exp(-w["_proto_tau_m"]))))
    signed = x * np.where(np.arange(1278) < 639, 1, -1)
    traces, m, outputs = np.zeros(4500), np.zeros(3), []
    for x_t in signed:
        arrived = x_t[w["input_to_synapse_indices"].astype(int)] * w["valid_indices_mask"]
        traces = np.exp(-1 / w["tau_s"]) * traces + np.maximum(w["_proto_w_s"], 0) * arrived
        into = np.concatenate([traces.reshape(45, 100).sum(1), kappa * m])
        hidden = activation(w["mlp.network.0.weight"] @ into + w["mlp.network.0.bias"])
        delta = w["mlp.network.2.weight"] @ hidden + w["mlp.network.2.bias"]
        m = kappa * m + 5 * (1 - kappa) * 1.7159 * np.tanh(2 / 3 * delta)
        outputs.append(w["w_y.weight"] @ m + w["w_y.bias"])
    return np.array(outputs)


@pytest.mark.parametrize(
    ("change", "activation"),
    [
        ({}, lambda a: np.maximum(a, 0)),
        ({"mlp_activation": "silu"}, lambda a: a / (1 + np.exp(-a))),
    ],
)
def test_an_imported_model_computes_the_published_equations(tmp_path, change, activation) -> None:
    model = read_elm(_write(tmp_path, _state(), **change))
    x = np.random.default_rng(3).random((60, 1278)) < 0.02
    expected = _as_published(_state(), x, activation)
    logits, voltage, _ = model.stack(SpikeEvents.from_dense(torch.from_numpy(x)[None]))
    np.testing.assert_allclose(logits[0].detach(), expected[:, 0], atol=2e-4)
    np.testing.assert_allclose(voltage[0].detach(), 10 * expected[:, 1] - 67.7, atol=2e-3)
    assert model.card.channels.names == ("excitatory", "inhibitory")


def _other_taus(state: dict[str, Tensor]) -> None:
    state["tau_s"][7] = 6.0


@pytest.mark.parametrize(
    ("spoil", "config", "message"),
    [
        (lambda s: s.pop("w_y.bias"), {}, r"w_y.bias is missing, .* needs \(2,\)"),
        (lambda s: s.update({"tau_s": torch.ones(3)}), {}, r"tau_s has shape \(3,\)"),
        (lambda s: s["w_y.bias"].fill_(float("nan")), {}, "w_y.bias holds values that are not"),
        (_other_taus, {}, "synapses of different tau_s"),
        (lambda s: None, {"num_memory": 4}, r"_proto_tau_m has shape \(3,\)"),
        (lambda s: None, {"mlp_activation": "gelu"}, "mlp_activation = 'gelu': expected 'relu'"),
        (lambda s: None, {"num_layers": 2}, "unknown ELM configuration key 'num_layers'"),
    ],
)
def test_other_checkpoints_are_refused_by_name(tmp_path, spoil, config, message) -> None:
    state = _state()
    spoil(state)
    with pytest.raises((DataError, UsageError), match=message):
        read_elm(_write(tmp_path, state, **config))


def test_a_checkpoint_that_is_missing_or_runs_code_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"model_config\.json"):
        read_elm(tmp_path)

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    _write(tmp_path, {})
    (tmp_path / "neuronio_best_model_state.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match="no state dict that torch reads"):
        read_elm(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_the_command_writes_a_model_with_a_spike_rule(tmp_path) -> None:
    _write(tmp_path / "elm", _state())
    out = tmp_path / "elm.safetensors"
    result = surrogate_command("import", "elm", tmp_path / "elm", "--out", out, "--json").json
    model = surrogate.load(out)
    assert result["parameters"] == model.stack.parameter_count
    assert result["spike_rule"]["logit"] == model.spike_rule.logit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "auc", "rmse"),
    [
        ("num_memory_1", 0.964, 1.44),
        ("num_memory_10", 0.984, 0.776),
        ("num_memory_20", 0.990, 0.651),
        ("num_memory_100", 0.991, 0.628),
        ("best_elm_neuron", 0.993, 0.595),
    ],
)
def test_published_models_score_as_measured(shared_data, tmp_path, name, auc, rmse) -> None:
    """Strictly: whole trials, exact times, without each trial's first 500 ms."""
    from sklearn.metrics import roc_auc_score

    source = shared_data.parent / "elm" / name
    if not source.is_dir():
        pytest.skip(f"published ELM not present: {source}")
    data = tmp_path / "test.h5"
    surrogate_command("data", "convert", shared_data / "l5pc-test.h5", "--out", data)
    model = read_elm(source)
    outputs = surrogate.evaluate(model, data, split="all", bootstrap=0).outputs
    with datasets.open(data) as opened:
        assert opened.n_trials == outputs.voltage.shape[0] == 32
    late = slice(500, None)
    target = np.minimum(outputs.target[:, late], -55)
    error = np.sqrt(np.square(outputs.voltage[:, late] - target).mean())
    found = roc_auc_score(outputs.spikes[:, late].ravel(), outputs.logits[:, late].ravel())
    assert found == pytest.approx(auc, abs=0.004)
    assert error == pytest.approx(rmse, abs=0.1)
