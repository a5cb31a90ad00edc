"""``surrogate import``: models of other programs as model files."""

from __future__ import annotations

from pathlib import Path

import click

from surrogate.cli._common import emit, json_option

__all__ = ["imports"]


@click.group("import")
def imports() -> None:
    """Turn models of other programs into model files.

    \b
    Examples:
      surrogate import elm models/num_memory_20 --out elm.safetensors
    """


@imports.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The model file.")
@json_option
def elm(folder: Path, out: Path, as_json: bool) -> None:
    """Import a published ELM neuron (Spieler et al. 2024).

    FOLDER holds model_config.json and neuronio_best_model_state.pt, which is read without running
    code from it. The spike rule is chosen on the bundled sample's validation trials, as after a
    training.

    \b
    Examples:
      surrogate import elm models/best_elm_neuron --out elm.safetensors
    With --json, one object: model, name, parameters, spike_rule {logit, refractory_bins}.
    """
    from dataclasses import asdict

    import surrogate
    from surrogate.model.imports.elm import read_elm
    from surrogate.model.model_file import save

    model = read_elm(folder)
    save(out, model.stack, model.card)
    surrogate.evaluate(out, split="valid", bootstrap=0, write_rule=True)
    rule = surrogate.load(out).spike_rule
    spec = model.stack.spec
    result = {
        "model": str(out),
        "name": spec.name,
        "parameters": spec.parameter_count,
        "spike_rule": None if rule is None else asdict(rule),
    }
    text = f"{out}: {spec.name}, {spec.parameter_count:,} parameters"
    emit(as_json, result, f"{text}\nnext: surrogate evaluate {out} --split test")
