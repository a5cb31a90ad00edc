"""``surrogate evaluate``: evaluate a trained surrogate."""

from __future__ import annotations

from pathlib import Path

import click

from surrogate.cli._common import emit, json_option, threads_option
from surrogate.cli._evaluation import evaluation_options, progress_bar

__all__ = ["evaluate"]

_HELP = """Evaluate a trained surrogate on the trials of a data set.

Runs MODEL, a model.safetensors that `surrogate train` wrote, over whole trials and compares spikes
and soma voltage with the neuron's. Nothing is written unless --plots or --write-rule asks for it.

\b
Examples:
  surrogate evaluate runs/lstm/model.safetensors
  surrogate evaluate runs/lstm/model.safetensors --data l5pc.h5 --split test --json
  surrogate evaluate runs/lstm/model.safetensors --protocol published --plots figures
  surrogate evaluate runs/lstm/model.safetensors --split valid --write-rule

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
  calibration_ratio, brier,
  voltage_rmse_mv, voltage_explained_variance (clipped at -55 mV),
  voltage_rmse_unclipped_mv, voltage_explained_variance_unclipped,
  voltage_rmse_around_spikes_mv {near, away}
Of the spikes that the spike rule emits:
  event_f1, event_precision, event_recall {"0", "1", "2", "5"}: by greatest distance
  from the neuron's in ms; event_f1_mean (0 to 5 ms), gamma_2ms, rate_ratio,
  victor_purpura, van_rossum {"5", "20"}: by time constant in ms; 1 is silence,
  isi_cv, burst_share {surrogate, neuron}, isi_distance,
  spike_outcomes {hit, shifted, missed, false}
The rest:
  thresholds {youden, gmean, rate}: {logit, probability, tpr, fpr}
  spread {saturated_share, distinct_above_threshold,
          distinct_probabilities_above_threshold, logit_gap}
  spike_rule {kind, logit, low_logit, seed, refractory_ms, delay_ms, chosen_by,
          emitted_spikes, emitted_rate_hz, neuron_rate_hz}
  threshold_sensitivity [{factor, logit, emitted_spikes, rate_ratio, event_f1,
          event_f1_mean}]: with the odds of the level multiplied by 0.25 to 4
  error_anatomy {hit, shifted, missed, false, delay_ms, by_place, false_beside_spikes,
          onset, worst_trials, worst_tenth_share}
  interspike_intervals {edges_ms, neuron, surrogate}
  reliability [{low, high, n_bins, mean_probability, spike_share,
          spike_share_interval}]
  f_i_curves [{inhibition_hz, points [{excitation_hz, seconds, neuron_hz, surrogate_hz
          and their intervals}]}]
  n_trials, n_trials_dropped, n_bins, n_spikes, parameters, model_file_bytes,
  state_bytes, protocol, labels, split, data {name, digest}, seconds, note,
  bootstrap {resamples, without_spikes, seed}; with --plots: plots [paths]
What does not exist, such as the ROC AUC of trials without spikes, is null.
"""


@click.command(help=_HELP)
@click.argument("model", type=click.Path(path_type=Path))
@evaluation_options
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw ROC curve, emitted spikes and traces there, each as .png and .svg.",
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
    from surrogate.plots.evaluation import plot_evaluation, roc_in_terminal

    torch.set_num_threads(threads)
    with progress_bar() as progress:
        result = surrogate.evaluate(
            model,
            data,
            split=split,
            protocol=protocol,
            labels=labels,
            bootstrap=bootstrap,
            seed=seed,
            write_rule=write_rule,
            progress=progress,
        )
    text = f"{result}\n\n{roc_in_terminal(result.outputs)}"
    if plots is not None:
        result["plots"] = plot_evaluation(plots, result)
    emit(as_json, result, text)
