"""``surrogate data``: convert, inspect, check and plot data sets."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surrogate.cli._common import emit, json_option
from surrogate.errors import one_line

if TYPE_CHECKING:
    from surrogate.datasets.convert import Conversion

__all__ = ["data"]

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """Convert, inspect, check and plot data sets.

    \b
    Examples:
      surrogate data convert downloads/*.p --out l5pc.h5 --split train --jobs 4
      surrogate data info l5pc.h5
      surrogate data validate l5pc.h5
      surrogate data plot --trial 3 --start 1000 --stop 2000 --out trial.png
    """


class Shares(click.ParamType):
    """Three numbers separated by commas."""

    name = "train,valid,test"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(share) for share in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not three shares like 0.8,0.1,0.1", param, ctx)


@data.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=FILE)
@click.option("--out", required=True, type=FILE, help="The data file to write.")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    help="The split of all trials of these sources.",
)
@click.option(
    "--split-fractions",
    type=Shares(),
    help="Draw the split of each trial, e.g. 0.8,0.1,0.1. Trials are independent even if they "
    "share a simulation run.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of --split-fractions.")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Sources read at a time."
)
@json_option
def convert(
    sources: tuple[Path, ...],
    out: Path,
    split: str | None,
    split_fractions: tuple[float, ...] | None,
    seed: int,
    jobs: int,
    as_json: bool,
) -> None:
    """Convert SOURCEs to one data file.

    A SOURCE is a public pickle of Beniaguev et al. 2021 (plain, .xz, .gz or .bz2), its HDF5 form,
    or a data file of this program, whose trials keep their split. A pickle is read without
    running it. A voltage that not all SOURCEs have is left out. What was read is kept in
    FILE.parts until FILE is complete: after an interruption the same command goes on. Without
    --split or --split-fractions no split is stored, and only `--split all` can be trained or
    evaluated on.

    \b
    Examples:
      surrogate data convert train/*.p --out train.h5 --split train --jobs 4
      surrogate data convert all/*.p.xz --out l5pc.h5 --split-fractions 0.8,0.1,0.1 --seed 1
      surrogate data convert train.h5 valid.h5 test.h5 --out l5pc.h5

    \b
    With --json, one object: path, n_trials, n_sources, n_reused, n_output_spikes,
    n_silenced, inexact_trials, left_out, split_sizes, digest.
    """
    from surrogate.datasets.convert import convert as convert_sources
    from surrogate.errors import SurrogateError

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _Progress() as progress:
            done = convert_sources(
                sources,
                out,
                split=split,
                fractions=split_fractions,
                seed=seed,
                jobs=jobs,
                progress=progress,
            )
    except (KeyboardInterrupt, SurrogateError):
        if any(out.parent.glob(f"{out.name}.parts/*.h5")):
            click.echo(f"What was read is kept in {out}.parts; run the command again", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    emit(as_json, vars(done), _conversion_text(done))


def _conversion_text(done: Conversion) -> str:
    split = done.split_sizes
    lines = [
        f"{done.path}: {done.n_trials} trials of {done.n_sources} sources, "
        f"{done.n_output_spikes} output spikes",
        f"  split      {_counts(split) if split else 'none stored; only --split all works'}",
        f"  silenced   {done.n_silenced} synapses by an event at t = 0, "
        f"{done.n_silenced / done.n_trials:.1f} per trial",
        f"  digest     {done.digest}",
    ]
    if done.left_out:
        lines.append(f"  left out   {', '.join(done.left_out)}: not in all sources")
    if done.inexact_trials:
        lines.append(
            f"  inexact    {len(done.inexact_trials)} trials keep rounded spike times: "
            f"{_some(done.inexact_trials)}"
        )
    return "\n".join(lines)


@data.command()
@click.argument("file", required=False, type=FILE)
@json_option
def info(file: Path | None, as_json: bool) -> None:
    """Say what is in FILE (by default the bundled sample).

    \b
    Examples:
      surrogate data info
      surrogate data info l5pc.h5 --json

    \b
    With --json, one object: path, bytes, digest, n_trials, n_steps, dt_ms, duration_ms, n_inputs,
    groups, segment_columns, voltages, amplitudes, weights, rounded_times, split_sizes,
    input_events, input_events_per_ms, output_spikes, output_rate_hz, silent_trials,
    silenced_synapses, silenced_synapses_per_trial, inexact_trials, provenance.
    """
    from surrogate import datasets
    from surrogate.datasets.info import summary

    with datasets.open(file) as opened:
        found = summary(opened)
    emit(as_json, found, _info_text(found))


def _info_text(found: dict[str, Any]) -> str:
    split, inexact = found["split_sizes"], found["inexact_trials"]
    lines = [
        f"{found['path']} ({found['bytes'] / 1e6:.1f} MB)",
        f"  trials     {found['n_trials']} of {found['duration_ms']:g} ms in bins of "
        f"{found['dt_ms']:g} ms",
        f"  split      {_counts(split) if split else 'none stored; only --split all works'}",
        f"  inputs     {found['n_inputs']} channels: {_groups(found['groups'])}; "
        f"{found['input_events_per_ms']:.1f} events per ms",
        f"  output     {found['output_spikes']} spikes, {found['output_rate_hz']:.2f} Hz; "
        f"{found['silent_trials']} trials are silent",
        f"  recorded   voltage of {', '.join(found['voltages'])}"
        f"{'; amplitudes' * found['amplitudes']}{'; synaptic weights' * found['weights']}",
        f"  silenced   {found['silenced_synapses']} synapses by an event at t = 0, "
        f"{found['silenced_synapses_per_trial']:.1f} per trial",
        f"  inexact    {_some(inexact) if inexact else 'no trial'} keeps rounded spike times",
        f"  digest     {found['digest']}",
    ]
    sources = found["provenance"].get("sources")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            name, trials = source.get("name"), source.get("trials")
            lines.append(one_line(f"  from       {name}: {trials} trials"))
    return "\n".join(lines)


@data.command()
@click.argument("file", required=False, type=FILE)
@json_option
@click.pass_context
def validate(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Check every promise of FILE's format (by default of the bundled sample).

    Reads the whole file. Exit code 1 if anything is wrong.

    \b
    Examples:
      surrogate data validate l5pc.h5
      surrogate data validate l5pc.h5 --json

    \b
    With --json, one object: path, valid (true or false), problems (a list of lines).
    """
    from surrogate import datasets
    from surrogate.datasets.validate import validate as problems_of

    file = datasets.sample_path() if file is None else file
    with datasets.open(file) as opened:
        n_trials = len(opened)
    with click.progressbar(length=n_trials, label="checking", file=sys.stderr) as bar:
        problems = problems_of(file, bar.update)
    text = "\n".join(f"{file}: {problem}" for problem in problems[:20])
    if len(problems) > 20:
        text += f"\n{file}: and {len(problems) - 20} more; --json lists all"
    report = {"path": file, "valid": not problems, "problems": problems}
    emit(as_json, report, text or f"{file}: {n_trials} trials, nothing wrong")
    if problems:
        ctx.exit(1)


@data.command()
@click.argument("file", required=False, type=FILE)
@click.option("--trial", default=0, show_default=True, help="Number of the trial.")
@click.option("--start", default=0.0, show_default=True, help="First millisecond.")
@click.option("--stop", default=None, type=float, help="End in ms; by default that of the trial.")
@click.option("--out", type=FILE, help="PNG or SVG; by default trial-N.png.")
@json_option
def plot(
    file: Path | None, trial: int, start: float, stop: float | None, out: Path | None, as_json: bool
) -> None:
    """Draw a trial of FILE (by default of the bundled sample): inputs, voltage, output spikes.

    \b
    Examples:
      surrogate data plot
      surrogate data plot l5pc.h5 --trial 12 --start 2000 --stop 3000 --out trial.svg

    \b
    With --json, one object: out, trial, start, stop, output_spikes_ms.
    """
    from surrogate import datasets
    from surrogate.plots.style import save_figure
    from surrogate.plots.trials import plot_trial

    out = Path(f"trial-{trial}.png") if out is None else out
    with datasets.open(file) as opened:
        stop = opened.header.duration_ms if stop is None else stop
        save_figure(plot_trial(opened, trial, start, stop), out, dpi=150)
        spikes = opened.spike_times(trial)
    spikes = spikes[(spikes >= start) & (spikes < stop)]
    result = {
        "out": out,
        "trial": trial,
        "start": start,
        "stop": stop,
        "output_spikes_ms": spikes,
    }
    emit(as_json, result, f"{out}: trial {trial}, {start:g} to {stop:g} ms, {spikes.size} spikes")


class _Progress(contextlib.ExitStack):
    """Progress of a conversion on stderr: a bar, or a line per source off a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._watched = sys.stderr.isatty()
        self._stage = ""
        self._started = 0.0
        self._bar: Any = None
        self._done = 0

    def __call__(self, stage: str, done: int, total: int, what: str) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._done = stage, 0
            self._started = time.monotonic()
            if self._watched:
                self._bar = self.enter_context(
                    click.progressbar(
                        length=total,
                        label="reading" if stage == "read" else "writing",
                        item_show_func=lambda item: item,
                        file=sys.stderr,
                    )
                )
        elapsed = max(time.monotonic() - self._started, 1e-3)
        rate = f"{done / 1e6 / elapsed:.1f} MB/s" if stage == "read" else f"{done / elapsed:.0f}/s"
        if self._bar is not None:
            self._bar.update(done - self._done, f"{rate} {what}")
        elif stage == "read":
            left = elapsed * (total - done) / max(done, 1)
            click.echo(f"{what}: {done / total:.0%}, {rate}, {left:.0f} s left", err=True)
        self._done = done


def _groups(groups: list[dict[str, Any]]) -> str:
    """Sizes and names; the kind where the name does not say it."""
    return ", ".join(
        f"{group['size']} {group['name']}"
        + (f" ({group['kind']})" if group["kind"] != group["name"] else "")
        for group in groups
    )


def _counts(split: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in split.items())


def _some(trials: list[int]) -> str:
    shown = ", ".join(str(trial) for trial in trials[:10])
    return shown + (f" and {len(trials) - 10} more" if len(trials) > 10 else "")
