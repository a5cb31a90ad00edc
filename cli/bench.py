"""``surrogate bench``: how fast the kernels are, beside what a user would otherwise call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from surrogate.cli._common import emit, json_option, threads_option

__all__ = ["bench"]

_HELP = """Measure the kernels against torch.nn, ONNX Runtime and event-driven torch.

Ours and each peer first compute the same inputs; where they disagree no speed is shown and the exit
code is 1. Then they are timed in turns in one process. A ratio above 1 says that ours is faster.
Without options LSTM 256-64-2 and RNN 32-16-2 are measured: one bin of 1 and of 1000 neurons per
call, and a training step of 32 windows of 1000 bins. That takes about a minute.

\b
Examples:
  surrogate bench
  surrogate bench --arch lstm --hidden 32-16-2 --mode step --neurons 1
  surrogate bench --mode evaluate --batch 8 --steps 6000 --json
  surrogate bench --goals --plot goals.svg
  surrogate bench kernels

\b
Modes:
  train      forward and backward of a batch of sequences
  evaluate   forward of a batch of sequences, without gradients
  step       one bin of all neurons per call

\b
--json prints rows, machine, versions, notes (peers left out, and why). A row is one
configuration against one peer:
  config, mode, neurons, batch, steps, provider (the peer)
  p20, p50, p80 (ours, seconds per call), peer_p50, ratio (peer_p50 / p50)
  parity (max|a-b| / max|b| over outputs, state and gradients), floor_share
  (computed least time / p50), parity_bound, goal (the project's, for one thread),
  ours and variant (what was measured of each), device
What was not timed, for want of parity, is null.
"""


@click.group(help=_HELP, invoke_without_command=True)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to compute [default: cuda where there is a GPU].",
)
@click.option("--arch", help="Such as rnn, gru or lstm [default: see above].")
@click.option("--hidden", help="Layer sizes, the last 2 [default: 256-64-2; rnn: 32-16-2].")
@click.option("--batch", type=click.IntRange(min=1), help="Sequences of a batch [default: 32].")
@click.option("--steps", type=click.IntRange(min=1), help="Bins of a sequence [default: 1000].")
@click.option(
    "--mode",
    type=click.Choice(["train", "evaluate", "step"]),
    help="What a call computes [default: step, then train].",
)
@click.option(
    "--neurons", type=click.IntRange(min=1), help="Neurons of mode step [default: 1 and 1000]."
)
@click.option("--goals", is_flag=True, help="Measure every configuration with a goal (minutes).")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time each configuration for this long; at least three rounds are made.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the ratios.")
@threads_option
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    goals: bool,
    seconds: float,
    plot: Path | None,
    threads: int,
    as_json: bool,
    **narrowed: Any,
) -> None:
    from surrogate import machine
    from surrogate.benchmarks.bench import bench as measure
    from surrogate.benchmarks.cases import goal_cases, select_cases
    from surrogate.benchmarks.figures import plot_ratios
    from surrogate.benchmarks.tables import text_table
    from surrogate.errors import UsageError

    if ctx.invoked_subcommand is not None:
        _refuse_options(ctx)
        return
    if goals and any(value is not None for value in narrowed.values()):
        raise UsageError("--goals names its own configurations; leave the other options out")
    if plot is not None and plot.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: unknown picture format; end the name in .png or .svg")
    cases = goal_cases() if goals else select_cases(**narrowed)
    with _progress() as advance:
        found = measure(cases, seconds=seconds, threads=threads, progress=advance)
    found["machine"] = {"cpu": machine.cpu(), **found["machine"]}
    if plot is not None and any(row["ratio"] for row in found["rows"]):
        plot_ratios(plot, found["rows"])
        found["plot"] = plot
    emit(as_json, found, text_table(found))
    _fail_on_disagreement(ctx, found["rows"])


_KERNELS_HELP = """Show the GPU kernels beside cuDNN, in all 18 configurations.

On a machine with a CUDA GPU they are measured, which takes minutes; elsewhere the results recorded
with this package are shown. What nobody has measured is predicted by the cost model, from data
sheets and assumed delays, and marked so; a prediction has no ratio.

\b
Examples:
  surrogate bench kernels
  surrogate bench kernels --mode step --chip A100 --json

\b
--json prints rows, gpu, versions, notes. The keys of a row are the first of those of
`surrogate bench`, config to floor_share, and source: measured or predicted.
"""


@bench.command(help=_KERNELS_HELP)
@click.option(
    "--mode",
    type=click.Choice(["train", "step"]),
    default="train",
    show_default=True,
    help="A training step of 32 x 1000 bins, or one bin of 1000 neurons.",
)
@click.option(
    "--chip",
    type=click.Choice(["A100", "H100", "H200"]),
    default="H200",
    show_default=True,
    help="Whose results and predictions to show.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="On a GPU: time each configuration for this long.",
)
@json_option
@click.pass_context
def kernels(ctx: click.Context, mode: str, chip: str, seconds: float, as_json: bool) -> None:
    import torch

    from surrogate.benchmarks.kernel_table import kernel_table, kernel_text

    measuring = torch.cuda.is_available()
    with _progress() if measuring else contextlib.nullcontext(lambda share, label: None) as advance:
        found = kernel_table(mode, chip, seconds, advance)
    emit(as_json, found, kernel_text(found))
    _fail_on_disagreement(ctx, found["rows"])


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr that shows the share that is done and the current case."""
    with click.progressbar(
        length=1000, label="measuring", file=sys.stderr, item_show_func=lambda text: text
    ) as bar:
        yield lambda share, label: bar.update(int(1000 * share) - bar.pos, label)


def _fail_on_disagreement(ctx: click.Context, rows: Sequence[Mapping[str, Any]]) -> None:
    wrong = [row for row in rows if row["provider"] is not None and row["ratio"] is None]
    if wrong:
        click.echo(
            f"Error: {len(wrong)} of {len(rows)} rows disagree with their peer beyond the bound, "
            "so no speed is shown for them",
            err=True,
        )
        ctx.exit(1)


def _refuse_options(ctx: click.Context) -> None:
    """Refuse options before a subcommand, which would do nothing."""
    from click.core import ParameterSource

    from surrogate.errors import UsageError

    for parameter in ctx.command.params:
        if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{parameter.opts[0]} does not belong to surrogate bench {ctx.invoked_subcommand}; "
                f"options come after the word {ctx.invoked_subcommand}"
            )
