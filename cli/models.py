"""``surrogate models``: the models that come with the package."""

from __future__ import annotations

from typing import Any

import click

from surrogate.cli._common import emit, json_option

__all__ = ["models"]


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the models that come with the package.

    Their names stand for their files: in every command that takes a MODEL, in surrogate.load and in
    SurrogateNeuron(100, "l5pc-small"). Scores are those on the validation trials that the model was
    chosen on; `surrogate report NAME` writes a page about one.

    \b
    Examples:
      surrogate models
      surrogate evaluate l5pc-small --split test
    With --json, one object: models [{name, path, model_file_bytes, arch, sizes, parameters,
    channels, dt_ms, spike_rule, roc_auc, event_f1_2ms, voltage_rmse_mv, teacher}].
    """
    from surrogate.model.model_file import load
    from surrogate.model.zoo import bundled_models

    found = []
    for name, path in bundled_models().items():
        card = load(path).card
        metrics: dict[str, Any] = card.metrics
        found.append(
            {
                "name": name,
                "path": path,
                "model_file_bytes": path.stat().st_size,
                "arch": card.spec.arch,
                "sizes": card.spec.sizes_text,
                "parameters": card.spec.parameter_count,
                "channels": str(card.channels),
                "dt_ms": card.dt_ms,
                "spike_rule": card.spike_rule and card.spike_rule.in_words(card.dt_ms),
                "roc_auc": metrics["roc_auc"],
                "event_f1_2ms": metrics["event_f1"]["2"],
                "voltage_rmse_mv": metrics["voltage_rmse_mv"],
                "teacher": card.data.get("teacher"),
            }
        )
    text = "\n".join(
        f"{model['name']:<12} {model['arch']} {model['sizes']}, {model['parameters']:,} parameters"
        f", {model['channels']}: ROC AUC {model['roc_auc']:.3f}, F1 within 2 ms "
        f"{model['event_f1_2ms']:.2f}, voltage RMSE {model['voltage_rmse_mv']:.2f} mV"
        for model in found
    )
    emit(as_json, {"models": found}, text)
