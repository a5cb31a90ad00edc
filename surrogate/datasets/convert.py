"""Converting sources to one data file: each source to a part, then all parts to the file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.datasets.header import Header
from surrogate.datasets.layout import SPLITS
from surrogate.datasets.reader import Dataset
from surrogate.datasets.sources.detect import file_digest, is_converted, open_source
from surrogate.datasets.validate import validate
from surrogate.datasets.writer import DatasetWriter
from surrogate.errors import DataError, UsageError
from surrogate.files import atomic_path, check_is_file, explain_os_error, lock_file

__all__ = ["Conversion", "ConversionCallback", "convert", "draw_splits"]

#: Called with the stage ("read" or "write"), what of it is done, its whole, and what was just
#: finished: bytes of the sources while reading, trials while writing.
ConversionCallback = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes
    ----------
    path : Path
        The file written.
    n_trials, n_sources, n_reused : int
        Trials written, sources read, and how many an interrupted conversion had read before.
    n_output_spikes, n_silenced : int
        Output spikes, and synapses silenced by an event at t = 0, over all trials.
    inexact_trials : list of int
        Trials whose exact spike times could not be recovered; they keep the rounded ones.
    left_out : list of str
        Voltages, and "rounded spike times", that some source has and another has not.
    split_sizes : dict or None
        Trials per split.
    digest : str
        The digest of the data.
    """

    path: Path
    n_trials: int
    n_sources: int
    n_reused: int
    n_output_spikes: int
    n_silenced: int
    inexact_trials: list[int]
    left_out: list[str]
    split_sizes: dict[str, int] | None
    digest: str


def convert(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: ConversionCallback = lambda stage, done, total, what: None,
) -> Conversion:
    """Convert ``sources`` to the data file ``out``; after an interruption the next call continues.

    Finished sources lie in ``<out>.parts/`` under the digest of their content until ``out`` is
    complete. The trials keep the order of the sources, whatever ``jobs``.

    Parameters
    ----------
    sources : sequence of paths
        Public pickles, their HDF5 form, or data files of this program, which keep their split. A
        voltage, or rounded spike times, that not all of them have is left out.
    out : path
        The file to write; an existing one is replaced when the new one is complete.
    split : {"train", "valid", "test"}, optional
        The split of every trial that has none yet.
    fractions : sequence of 3 floats, optional
        Shares of train, valid and test, drawn per trial from ``seed``. Trials of one run of the
        source simulation have independent inputs, so that they may be parted.
    jobs : int
        Sources read at a time, each in its own process.

    Raises
    ------
    UsageError
        If the arguments contradict each other.
    DataError
        If a source cannot be used, two sources describe different neurons, or a trial comes twice.
    """
    paths, out = [Path(source) for source in sources], Path(out)
    _check_arguments(paths, out, split, fractions, jobs)
    # A link stays: the file that it points to is written.
    target = Path(os.path.realpath(out))
    if target.exists():
        check_is_file(target)
    folder = target.with_name(target.name + ".parts")
    with _alone_in(folder, out):
        try:
            parts, n_reused = _stage(paths, folder, jobs, progress)
            result = _merge(paths, parts, folder / "merged.h5", split, fractions, seed, progress)
            os.replace(folder / "merged.h5", target)
        except OSError as error:
            raise explain_os_error(error, out) from error
        finally:
            if not any(folder.glob("*.h5")):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(result, path=out, n_reused=n_reused)


@contextlib.contextmanager
def _alone_in(folder: Path, out: Path) -> Iterator[None]:
    """Make ``folder``, and keep other conversions to ``out`` from working there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "wb")  # noqa: SIM115
    except OSError as error:
        raise explain_os_error(error, folder) from error
    with handle:
        try:
            lock_file(handle, wait=False)
        except BlockingIOError:
            raise DataError(
                f"{out}: another conversion is writing this file; wait for it, or choose another"
            ) from None
        yield


def _check_arguments(
    paths: Sequence[Path],
    out: Path,
    split: str | None,
    fractions: Sequence[float] | None,
    jobs: int,
) -> None:
    if not paths:
        raise UsageError("no source given; name at least one file to convert")
    if split is not None and fractions is not None:
        raise UsageError("both a split and split fractions are given; choose one")
    if split is not None and split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; expected train, valid or test")
    if fractions is not None and (
        len(fractions) != 3
        or not all(0 <= share <= 1 for share in fractions)
        or abs(sum(fractions) - 1) > 1e-6
    ):
        raise UsageError(
            f"split fractions {','.join(str(share) for share in fractions)} are not three shares "
            "that add up to 1; give for instance 0.8,0.1,0.1"
        )
    if jobs < 1:
        raise UsageError(f"{jobs} jobs asked for; expected at least 1")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name the file to write")
    for path in paths:
        if path.resolve() == out.resolve():
            raise UsageError(f"{out}: is a source as well; choose another name for the result")


def _stage(
    paths: Sequence[Path], folder: Path, jobs: int, progress: ConversionCallback
) -> tuple[list[Path], int]:
    """The data file that stands for each source, in order, and how many were there already."""
    # Left by a conversion that was killed; a name with its process number is never reused.
    for stale in folder.glob(".*.partial"):
        stale.unlink(missing_ok=True)
    parts: dict[Path, Path] = {}
    n_reused = done = 0
    total = sum(path.stat().st_size for path in paths)
    for path, part, reused in _staged(paths, folder, jobs):
        parts[path] = part
        n_reused += reused
        done += path.stat().st_size
        progress("read", done, total, f"{path.name}{' (read before)' if reused else ''}")
    return [parts[path] for path in paths], n_reused


def _staged(paths: Sequence[Path], folder: Path, jobs: int) -> Iterator[tuple[Path, Path, bool]]:
    if jobs == 1:
        for path in paths:
            yield path, *_stage_one(path, folder)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(jobs, len(paths)), multiprocessing.get_context("spawn"), _follow_parent
    )
    with pool:
        waiting = {pool.submit(_stage_one, path, folder): path for path in paths}
        try:
            for done in as_completed(waiting):
                yield waiting[done], *done.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{folder}: a process was killed, perhaps for want of memory; use fewer jobs"
            ) from error
        except Exception:
            # Sources that are being read now are finished and kept.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _follow_parent() -> None:
    """Ignore interrupts, which the parent process handles, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stage_one(path: Path, folder: Path) -> tuple[Path, bool]:
    """Convert one source to its part, unless that was done before."""
    if is_converted(path):
        return path, False
    digest = file_digest(path)
    part = folder / f"{digest}.h5"
    if part.exists() and _is_sound(part):
        return part, True
    source = open_source(path)
    try:
        with atomic_path(part) as aside, DatasetWriter(aside, source.header, compression=1) as out:
            for index, trial in enumerate(source):
                out.append(trial, f"{path}: trial {index}")
            out.finish({**source.description, "sha256": digest})
    finally:
        source.close()
    return part, False


def _is_sound(part: Path) -> bool:
    try:
        return not validate(part)
    except DataError:
        return False


def _common_header(paths: Sequence[Path], parts: Sequence[Path]) -> tuple[Header, list[str]]:
    """The header of all parts together, and the names of what it leaves out."""
    headers = []
    for path, part in zip(paths, parts, strict=True):
        with Dataset(part) as data:
            headers.append(data.header)
        if difference := headers[0].difference(headers[-1]):
            raise DataError(
                f"{path}: does not fit {paths[0]}: {difference}; convert it to its own file"
            )
    common = functools.reduce(Header.in_common, headers)
    recorded = {name for header in headers for name in header.voltages}
    left_out = [f"{name} voltage" for name in sorted(recorded - set(common.voltages))]
    if not common.rounded_times and any(header.rounded_times for header in headers):
        left_out.append("rounded spike times")
    return common, left_out


def _merge(
    paths: Sequence[Path],
    parts: Sequence[Path],
    merged: Path,
    split: str | None,
    fractions: Sequence[float] | None,
    seed: int,
    progress: ConversionCallback,
) -> Conversion:
    splits = _splits(parts, split, fractions, seed)
    seen: dict[bytes, str] = {}
    position = 0
    n_output_spikes = n_silenced = 0
    inexact: list[int] = []
    origins: list[dict[str, Any]] = []
    header, left_out = _common_header(paths, parts)
    with atomic_path(merged) as aside, DatasetWriter(aside, header) as writer:
        for path, part in zip(paths, parts, strict=True):
            with Dataset(part) as data:
                for index in range(len(data)):
                    trial = data.verified(index)
                    name = f"trial {index} of {path}"
                    kept = dataclasses.replace(trial.reduced_to(header), split=splits[position])
                    digest = writer.append(kept, name)
                    if digest in seen:
                        raise DataError(
                            f"{name} is the same as {seen[digest]}; leave one of them out"
                        )
                    seen[digest] = name
                    if not trial.exact_times:
                        inexact.append(position)
                    n_output_spikes += trial.spike_time_ms.size
                    n_silenced += trial.silenced.size
                    position += 1
                    progress("write", position, len(splits), path.name)
                origins.append({**data.provenance, "name": path.name, "trials": len(data)})
        writer.finish({"sources": origins})
    with Dataset(merged) as data:
        return Conversion(
            path=merged,
            n_trials=len(data),
            n_sources=len(paths),
            n_reused=0,
            n_output_spikes=n_output_spikes,
            n_silenced=n_silenced,
            inexact_trials=inexact,
            left_out=left_out,
            split_sizes=data.split_sizes,
            digest=data.digest,
        )


def _splits(
    parts: Sequence[Path], split: str | None, fractions: Sequence[float] | None, seed: int
) -> list[str | None]:
    """The split of every trial: its own, else the given one."""
    stored: list[str | None] = []
    for part in parts:
        with Dataset(part) as data:
            stored += data.stored_splits()
    free = [index for index, name in enumerate(stored) if name is None]
    if split is not None:
        drawn = [split] * len(free)
    elif fractions is not None:
        drawn = draw_splits(len(free), fractions, seed)
    elif free and len(free) < len(stored):
        raise UsageError(
            f"{len(free)} trials have no split and {len(stored) - len(free)} have one; give the "
            "others theirs with --split or --split-fractions"
        )
    else:
        return stored
    for index, name in zip(free, drawn, strict=True):
        stored[index] = name
    return stored


def draw_splits(n_trials: int, fractions: Sequence[float], seed: int) -> list[str]:
    """Train, valid or test for each trial: shares to the nearest trial, drawn from ``seed``."""
    bounds = np.round(np.cumsum(fractions) * n_trials).astype(int)
    names = np.repeat(SPLITS, np.diff(bounds, prepend=0))
    return np.random.default_rng(seed).permutation(names).tolist()
