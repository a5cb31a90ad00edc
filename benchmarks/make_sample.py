"""Build the bundled sample from the real trials: ``python -m surrogate.benchmarks.make_sample``."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click

from surrogate.datasets import sample_path
from surrogate.datasets.sources.detect import file_digest
from surrogate.datasets.sources.l5pc_hdf5 import L5pcFile
from surrogate.datasets.trial import Trial
from surrogate.datasets.writer import DatasetWriter
from surrogate.files import atomic_path

MAX_BYTES = 10_000_000
SIMULATION = (
    "Hay et al. 2011 layer 5b pyramidal cell, NEURON 8.2.7 (CVODE), input protocol of Beniaguev et "
    "al. 2021 (NMDA, basal and apical excitation 0..800 per 100 ms, inhibition -600..+200), every "
    "synaptic release succeeds"
)


def evenly_over_seeds(trials: Sequence[Trial], count: int) -> list[Trial]:
    """``count`` trials, taken in turn from every simulation run, in the order of the file."""
    by_seed: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_seed[trial.source[0]].append(trial)
    depth = max(len(run) for run in by_seed.values())
    in_turn = [run[i] for i in range(depth) for run in by_seed.values() if i < len(run)]
    return sorted(in_turn[:count], key=lambda trial: trial.source)


def write_sample(out: Path, sources: dict[str, L5pcFile], counts: dict[str, int]) -> int:
    """Write ``counts`` trials of each split to ``out`` if they fit; the size in bytes."""
    provenance = {
        "note": "the sample bundled with surrogate-neuron",
        "simulation": SIMULATION,
        "sources": [
            {
                **source.description,
                "name": source.path.name,
                "sha256": file_digest(source.path),
                "split": split,
                "trials": counts[split],
                "chosen": f"of {len(source)}, evenly over the simulation runs",
            }
            for split, source in sources.items()
        ],
    }
    with atomic_path(out) as aside:
        with DatasetWriter(aside, sources["train"].header, compression=9) as writer:
            for split, source in sources.items():
                for trial in evenly_over_seeds(list(source), counts[split]):
                    writer.append(dataclasses.replace(trial, split=split))
            writer.finish(provenance)
        return aside.stat().st_size


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=sample_path())
@click.option("--valid", default=12, show_default=True, help="Trials of l5pc-valid.h5.")
@click.option("--test", default=8, show_default=True, help="Trials of l5pc-test.h5.")
def main(folder: Path, out: Path, valid: int, test: int) -> None:
    """Fill OUT with as many training trials of FOLDER as 10 MB hold."""
    sources = {split: L5pcFile(folder / f"l5pc-{split}.h5") for split in ("train", "valid", "test")}
    low, high = 1, len(sources["train"])
    while low < high:
        middle = (low + high + 1) // 2
        size = write_sample(out, sources, {"train": middle, "valid": valid, "test": test})
        low, high = (middle, high) if size <= MAX_BYTES else (low, middle - 1)
    counts = {"train": low, "valid": valid, "test": test}
    size = write_sample(out, sources, counts)
    click.echo(json.dumps({"out": out.name, "bytes": size, **counts}))


if __name__ == "__main__":
    main()
