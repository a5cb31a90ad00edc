"""``surrogate evaluate``: judge a trained surrogate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surrogate.cli._common import emit, json_option, threads_option

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from surrogate.evaluation.protocols import Outputs
    from surrogate.model.model_file import Model

__all__ = ["evaluate"]

FILE = click.Path(dir_okay=False, path_type=Path)

_HELP = """Judge a trained surrogate on the trials of a data set.

Runs MODEL, a model.h5 that `surrogate train` wrote, over whole trials and compares spikes and soma
voltage with the neuron's. Nothing is written unless --plots or --write-rule asks for it.

\b
Examples:
  surrogate evaluate runs/lstm/model.h5
  surrogate evaluate runs/lstm/model.h5 --data l5pc.h5 --split test --json
  surrogate evaluate runs/lstm/model.h5 --protocol published --plots figures
  surrogate evaluate runs/lstm/model.h5 --split valid --write-rule

\b
Protocols:
  stateful   each trial whole, from a zero state; every bin counts
  blog       windows of 1000 ms, each from a zero state; every bin counts
  published  as the L5PC papers: windows of 500 ms with 150 ms burn-in, without each
             trial's first 500 ms and trials of more than 24 spikes, legacy labels,
             voltage rescaled to the truth's mean and deviation

\b
--json prints one object. Scores, each with <key>_interval: [low, high], 95 %, trials resampled:
  roc_auc, average_precision, tpr_at_fpr {"0.0025", "0.01"}, nll (nats per bin),
  voltage_rmse_mv, voltage_explained_variance (clipped at -55 mV),
  voltage_rmse_unclipped_mv, voltage_explained_variance_unclipped
The rest:
  thresholds {youden, gmean, rate}: {logit, probability, tpr, fpr}
  spread {saturated_share, distinct_above_threshold,
          distinct_probabilities_above_threshold, logit_gap}
  spike_rule {kind, logit, refractory_ms, chosen_by, emitted_spikes, emitted_rate_hz,
          neuron_rate_hz, coincidence {"0", "1", "2", "5"}: {precision, recall, f1,
          f1_interval}}, by greatest distance in ms
  n_trials, n_trials_dropped, n_bins, n_spikes, parameters, model_file_bytes,
  state_bytes, protocol, labels, split, data {name, digest}, seconds, note,
  bootstrap {resamples, without_spikes, seed}; with --plots: plots [paths]
What does not exist, such as the ROC AUC of trials without spikes, is null.
"""


@click.command(help=_HELP)
@click.argument("model", type=FILE)
@click.option("--data", type=FILE, help="Data set [default: the bundled sample].")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="test",
    show_default=True,
    help="The trials to judge on.",
)
@click.option(
    "--protocol",
    type=click.Choice(["stateful", "blog", "published"]),
    default="stateful",
    show_default=True,
    help="Which windows are run and which bins count.",
)
@click.option(
    "--labels",
    type=click.Choice(["exact", "legacy"]),
    help="Spike times, exact or rounded as the public files give them [default: exact; "
    "published: legacy].",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples of the trials for the intervals; 0 for none.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the resampling.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw roc.png, roc.svg, traces.png and traces.svg there.",
)
@click.option(
    "--write-rule",
    is_flag=True,
    help="Choose the spike rule anew on these trials and write it into MODEL. Not on test trials.",
)
@threads_option
@json_option
def evaluate(
    model: Path,
    data: Path | None,
    split: str,
    protocol: str,
    labels: str | None,
    bootstrap: int,
    seed: int,
    plots: Path | None,
    write_rule: bool,
    threads: int,
    as_json: bool,
) -> None:
    import torch

    import surrogate
    from surrogate.errors import UsageError
    from surrogate.evaluation import evaluate as evaluation
    from surrogate.evaluation.protocols import run_protocol
    from surrogate.plots.evaluation import roc_in_terminal

    torch.set_num_threads(threads)
    loaded = surrogate.load(model)
    with surrogate.datasets.open(data) as dataset:
        trials = dataset.trial_indices(split)
        holds_test = split == "test" or (split == "all" and dataset.split_sizes is not None)
        if write_rule and (holds_test or protocol != "stateful"):
            raise UsageError(
                f"--write-rule with --split {split} --protocol {protocol}: a rule is chosen on "
                "trials kept from the test, run whole; use --split valid --protocol stateful"
            )
        with click.progressbar(
            length=1,
            label="evaluating",
            file=sys.stderr,
            item_show_func=lambda text: text,
        ) as bar:
            outputs = run_protocol(loaded.stack, dataset, trials, protocol, labels, _advance(bar))
        if write_rule:
            evaluation.rewrite_rule(loaded, dataset, split, outputs)
        result = evaluation.evaluate(
            loaded, dataset, split, bootstrap=bootstrap, seed=seed, outputs=outputs
        )
    if plots is not None:
        result["plots"] = _draw(plots, loaded, outputs)
    curve = roc_in_terminal(outputs.logits, outputs.spikes)
    emit(as_json, result, f"{_describe(loaded, result)}\n\n{curve}")


def _advance(bar: ProgressBar[Any]) -> Callable[[int, int], None]:
    """Moves the bar and shows the rate in simulated milliseconds per second."""
    begun = time.monotonic()

    def advance(done: int, total: int) -> None:
        bar.length = total
        rate = done / max(time.monotonic() - begun, 1e-9)
        bar.update(done - bar.pos, f"{rate:,.0f} ms/s")

    return advance


def _draw(folder: Path, model: Model, outputs: Outputs) -> list[Path]:
    from surrogate.plots.evaluation import plot_roc, plot_traces

    drawn = []
    for kind in ("png", "svg"):
        if outputs.spikes.any():
            drawn.append(folder / f"roc.{kind}")
            plot_roc(drawn[-1], outputs.logits, outputs.spikes)
        drawn.append(folder / f"traces.{kind}")
        plot_traces(
            drawn[-1],
            outputs.logits,
            outputs.voltage,
            outputs.spikes,
            outputs.target,
            model.spike_rule,
            first_bin=outputs.first_bin,
        )
    return drawn


_ROWS = (
    ("ROC AUC", "roc_auc"),
    ("average precision", "average_precision"),
    ("negative log-likelihood (nats/bin)", "nll"),
    ("voltage RMSE, clipped (mV)", "voltage_rmse_mv"),
    ("voltage explained variance, clipped", "voltage_explained_variance"),
    ("voltage RMSE, unclipped (mV)", "voltage_rmse_unclipped_mv"),
    ("voltage explained variance, unclipped", "voltage_explained_variance_unclipped"),
)


def _describe(model: Model, result: dict[str, Any]) -> str:
    card = model.card
    dropped = f", {result['n_trials_dropped']} left out" if result["n_trials_dropped"] else ""
    sizes = "-".join(map(str, card.hidden_sizes))
    lines = [
        f"{card.arch} {sizes}, {result['parameters']:,} parameters; "
        f"model file {result['model_file_bytes']:,} bytes, state {result['state_bytes']:,} bytes",
        f"{result['data']['name']}, split {result['split']}: {result['n_trials']} trials{dropped}, "
        f"{result['n_spikes']} spikes; protocol {result['protocol']}, {result['labels']} spike "
        f"times, {result['seconds']:.1f} s",
        "",
        f"{'score':<40}{'value':>10}   95 % over trials",
    ]
    rows = [(name, result[key], result[f"{key}_interval"]) for name, key in _ROWS]
    for fpr, rate in (result["tpr_at_fpr"] or {}).items():
        ranges = result["tpr_at_fpr_interval"] or {}
        rows.insert(-5, (f"TPR at FPR {float(fpr):.2%}", rate, ranges.get(fpr)))
    lines += [_row(*row) for row in rows]
    if result["note"]:
        return "\n".join([*lines, "", f"note: {result['note']}"])
    lines += ["", f"{'threshold by':<16}{'logit':>12}{'probability':>14}{'TPR':>8}{'FPR':>9}"]
    for name, point in result["thresholds"].items():
        lines.append(
            f"{name:<16}{point['logit']:>12.7g}{point['probability']:>14.7g}"
            f"{point['tpr']:>8.3f}{point['fpr']:>9.5f}"
        )
    spread = result["spread"]
    lines += [
        "",
        f"spread: {spread['saturated_share']:.2%} saturated, {spread['distinct_above_threshold']} "
        f"distinct logits above the rate threshold, logit gap {spread['logit_gap']:.4g}",
        *_describe_rule(result["spike_rule"]),
    ]
    return "\n".join(lines)


def _row(name: str, value: float | None, interval: list[float] | None) -> str:
    shown = "none" if value is None else f"{value:.4f}"
    edges = "" if interval is None else f"   [{interval[0]:.4f}, {interval[1]:.4f}]"
    return f"{name:<40}{shown:>10}{edges}"


def _describe_rule(rule: dict[str, Any] | None) -> list[str]:
    if rule is None:
        return ["spike rule: none chosen yet; choose one with --split valid --write-rule"]
    agreement = ", ".join(
        f"{window} ms {0 if score['f1'] is None else score['f1']:.2f}"
        for window, score in rule["coincidence"].items()
    )
    return [
        f"spike rule: logit {rule['logit']:.7g}, refractory {rule['refractory_ms']} ms "
        f"({rule['chosen_by']})",
        f"  emits {rule['emitted_rate_hz']:.2f} Hz, the neuron {rule['neuron_rate_hz']:.2f} Hz; "
        f"F1 within {agreement}",
    ]
