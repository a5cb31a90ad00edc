"""The report of one model: its card, its scores on a split, its curves and traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from surrogate import datasets, machine
from surrogate.errors import SurrogateError
from surrogate.evaluation.evaluate import evaluate
from surrogate.evaluation.scores import ScoreRow, score_rows
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model, load
from surrogate.report.drawings import draw_learning_curve, draw_roc, draw_spikes, draw_traces
from surrogate.report.page import check_out, now, render, write_report
from surrogate.report.summary import csv_text
from surrogate.training.run_folder import RunFolder

__all__ = ["write_model_report"]


def write_model_report(
    path: Path,
    out: Path | None = None,
    data: Path | None = None,
    split: str = "valid",
    svg: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the report of one model file.

    Parameters
    ----------
    path : Path
        A model.safetensors. If it is in its run's folder, the learning curve is drawn too.
    out : Path, optional
        The page, ending in .html; by default ``report.html`` beside the model. The JSON and the
        CSV lie beside it.
    data : Path, optional
        Data set to evaluate on; by default the bundled sample.
    split : "valid" | "test" | "train" | "all"
    svg : Path, optional
        Folder that gets the figures as files too.
    say : callable
        Told what is being done.

    Returns
    -------
    dict
        What the JSON file holds, and ``files``.

    Raises
    ------
    UsageError
        If ``out`` ends otherwise, the split does not exist, or the data do not fit the model.
    DataError
        If a file is damaged or cannot be written.
    """
    out = check_out(out or path.parent / "report.html")
    model = load(path)
    with datasets.open(data) as dataset:
        say(f"running the model over {len(dataset.trial_indices(split))} trials of split {split}")
        scores = evaluate(model, dataset, split=split)
    rows = score_rows(scores)
    say("drawing")
    drawn, missing = [], []
    if scores["note"]:
        missing.append(f"ROC curve, thresholds and spread: {scores['note']}")
    else:
        drawn.append(draw_roc("roc", "ROC curve", scores))
    title = f"Voltage and spikes of one trial, split {split}"
    drawn.append(draw_traces("traces", title, scores))
    try:
        history = RunFolder(path.parent).read_metrics()
    except SurrogateError as error:
        history = []
        missing.append(f"learning curve: {error}")
    if history:
        drawn.append(draw_learning_curve(history))
    if scores["spike_rule"] is None:
        missing.append(
            "spike rule: none chosen yet; `surrogate evaluate --split valid --write-rule` does"
        )
    elif scores["n_spikes"]:
        drawn.append(draw_spikes(scores))
    content = _content(model, scores, missing)
    html = render(
        "model.html",
        {drawing.name: drawing for drawing in drawn},
        title=f"{content['model']['name']}: a surrogate neuron",
        score_rows=rows,
        card_rows=_card_rows(model.card),
        recipe_rows=list(model.card.recipe.items()),
        **content,
    )
    files = write_report(out, html, content, csv_text([_csv_row(row) for row in rows]), svg, drawn)
    return content | {"files": files}


def _content(model: Model, scores: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """What the JSON file holds and the page shows."""
    card = model.card
    return {
        "kind": "surrogate-model-report",
        "version": 1,
        "created": now(),
        "versions": machine.versions("matplotlib"),
        "model": {
            "name": f"{card.spec.arch.upper()} {card.spec.sizes_text}",
            "arch": card.spec.arch,
            "hidden_sizes": list(card.spec.hidden_sizes),
            "parameters": model.stack.parameter_count,
            "recipe": card.recipe,
            "seed": card.seed,
            "data": card.data,
            "versions": card.versions,
        },
        "scores": scores,
        "missing": missing,
    }


def _csv_row(row: ScoreRow) -> dict[str, Any]:
    low, high = row.interval or (None, None)
    return {"score": row.label, "value": row.value, "low": low, "high": high}


def _card_rows(card: ModelCard) -> list[tuple[str, str]]:
    """The model card in words."""
    rule, spec = card.spike_rule, card.spec
    rows = [
        ("Stack", f"{spec.arch.upper()} {spec.sizes_text}, head {spec.head}"),
        ("Input", f"{spec.input_size} channels: {card.channels}"),
        ("Bin", f"{card.dt_ms:g} ms"),
        ("Voltage", f"{spec.voltage_scale:g} mV x output {spec.voltage_offset:+g} mV"),
    ]
    if card.resting_voltage_mv is not None:
        rows.append(("Resting voltage", f"{card.resting_voltage_mv:.2f} mV"))
    for kind, (low, high) in card.input_rate_hz.items():
        rows.append((f"Input rate in training, {kind}", f"{low:.3g} to {high:.3g} Hz per synapse"))
    if rule:
        rows.append(("Spike rule", f"{rule.in_words(card.dt_ms)}; chosen by {rule.chosen_by}"))
    rows += [(f"Training data, {name}", str(value)) for name, value in card.data.items()]
    if card.seed is not None:
        rows.append(("Seed", str(card.seed)))
    return rows + [(f"Trained with {name}", value) for name, value in card.versions.items()]
