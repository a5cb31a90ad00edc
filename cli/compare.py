"""``surrogate compare``: put trained surrogates side by side."""

from __future__ import annotations

from pathlib import Path

import click

from surrogate.cli._common import emit, json_option, threads_option
from surrogate.cli._evaluation import FILE, evaluation_options, progress_bar

__all__ = ["compare"]

_HELP = """Evaluate surrogates on the same trials and compare each with the first.

Each score comes with its difference from that of the first model and a paired interval: a resample
holds the same trials for all models. An interval that leaves out 0 means
that the choice of trials hardly explains the difference.

\b
Examples:
  surrogate compare runs/gru/model.safetensors runs/lstm/model.safetensors
  surrogate compare a.safetensors b.safetensors c.safetensors --data l5pc.h5 --split test --json

\b
--json prints one object:
  models [{path, arch, sizes, parameters, model_file_bytes, spike_rule}]
  scores {<key>: {values, intervals, differences, difference_intervals}}: lists with an
          entry for each model, null where nothing exists; keys are those of `surrogate
          evaluate --json`. Scores with a parameter hold such an object for each value.
  n_trials, n_trials_dropped, n_bins, n_spikes, protocol, labels, split,
  bootstrap {resamples, seed}, data {name, digest}
"""


@click.command(help=_HELP)
@click.argument("models", nargs=-1, type=FILE, metavar="MODEL MODEL...")
@evaluation_options
@threads_option
@json_option
def compare(
    models: tuple[Path, ...],
    data: Path | None,
    split: str,
    protocol: str,
    labels: str | None,
    bootstrap: int,
    seed: int,
    threads: int,
    as_json: bool,
) -> None:
    import torch

    import surrogate

    torch.set_num_threads(threads)
    with progress_bar() as progress:
        result = surrogate.compare(
            models,
            data,
            split=split,
            protocol=protocol,
            labels=labels,
            bootstrap=bootstrap,
            seed=seed,
            progress=progress,
        )
    emit(as_json, result, str(result))
