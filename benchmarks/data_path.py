"""Speed and memory of the data path: ``python -m surrogate.benchmarks.data_path``.

Reads batches of 32 windows of 1000 ms as training does, and converts a public pickle, each in a
process of its own so that peaks of memory are its own.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from surrogate import datasets
from surrogate.benchmarks.public_pickle import write_public_pickle
from surrogate.datasets.convert import convert

BATCH, STEPS = 32, 1000


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent's memory
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def measure_reading(path: Path | None, batches: int) -> dict[str, Any]:
    """Milliseconds per batch of random windows, windows per second, bytes and memory."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    before = peak_memory_mb()
    seconds: dict[str, list[float]] = {"events": [], "voltage": [], "spikes": []}
    input_bytes = 0
    with datasets.open(path) as data:
        for _ in range(batches):
            trials = rng.integers(0, len(data), BATCH)
            starts = rng.integers(0, data.n_steps - STEPS + 1, BATCH)
            for name, spent in seconds.items():
                started = time.perf_counter()
                read = getattr(data, name)(trials, starts, STEPS)
                spent.append(time.perf_counter() - started)
                input_bytes = max(input_bytes, read.nbytes if name == "events" else 0)
        name = data.path.name
    whole = np.sum(list(seconds.values()), 0)
    return {
        "file": name,
        "batches": batches,
        **{f"{part}_ms": 1e3 * float(np.median(spent)) for part, spent in seconds.items()},
        "batch_ms_p50": 1e3 * float(np.median(whole)),
        "batch_ms_p95": 1e3 * float(np.quantile(whole, 0.95)),
        "windows_per_s": BATCH / float(np.mean(whole)),
        "input_bytes_per_batch": input_bytes,
        "memory_mb": peak_memory_mb() - before,
    }


def measure_conversion(source: Path) -> dict[str, Any]:
    """Seconds and memory that converting the plain pickle ``source`` takes, beside its size."""
    size = source.stat().st_size
    before = peak_memory_mb()
    started = time.perf_counter()
    done = convert([source], source.with_suffix(".h5"))
    spent = time.perf_counter() - started
    memory = peak_memory_mb() - before
    return {
        "source_mb": size / 1e6,
        "trials": done.n_trials,
        "seconds": spent,
        "mb_per_s": size / 1e6 / spent,
        "memory_mb": memory,
        "memory_per_source_mb": memory / (size / 1e6),
    }


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """``function(*arguments)`` in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="A data file; else the sample.")
@click.option("--trials", default=8, show_default=True, help="Trials of the pickle to convert.")
@click.option("--batches", default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(data: Path | None, trials: int, batches: int, as_json: bool) -> None:
    """Measure reading a data file and converting a pickle of the public form."""
    found = {"reading": alone(measure_reading, data, batches)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "public.p"
        write_public_pickle(source, trials)
        found["conversion"] = alone(measure_conversion, source)
    if as_json:
        click.echo(json.dumps(found))
        return
    for part, figures in found.items():
        click.echo(part)
        for name, value in figures.items():
            shown = f"{value:,.2f}" if isinstance(value, float) else str(value)
            click.echo(f"  {name:24}{shown:>16}")


if __name__ == "__main__":
    main()
