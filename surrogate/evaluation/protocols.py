"""How a surrogate is run over trials for evaluation: which windows, and which bins count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import UsageError
from surrogate.evaluation.comparison import Comparison
from surrogate.model.prediction import BinsCallback, predict_dataset
from surrogate.model.stack import RecurrentStack

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["PROTOCOLS", "Outputs", "Protocol", "run_protocol"]


@dataclass(frozen=True)
class Protocol:
    """One way to run and score.

    Attributes
    ----------
    window_ms : int or None
        Length of the windows, each run from a zero state; None for the whole trial as one.
    burn_in_ms : int
        Time at a window's start that does not count. Windows overlap by as much.
    ignored_ms : int
        Time at a trial's start that does not count.
    max_spikes : int or None
        Trials with more output spikes are left out.
    labels : "exact" | "legacy"
        Spike times, unless others are asked for.
    rescale_voltage : bool
        Whether the predicted voltage is given the mean and deviation of the true one.
    """

    window_ms: int | None = None
    burn_in_ms: int = 0
    ignored_ms: int = 0
    max_spikes: int | None = None
    labels: str = "exact"
    rescale_voltage: bool = False

    def windows(self, dataset: Dataset) -> list[tuple[int, int, int]]:
        """(first bin run, first bin scored, end) of each window in a trial of ``dataset``.

        The scored parts tile the trial from ``ignored_ms`` to its end; the last may be shorter.

        Raises
        ------
        UsageError
            If the bins are too long for such windows.
        """
        n_steps, burn_in = dataset.n_steps, dataset.bins(self.burn_in_ms)
        window = n_steps if self.window_ms is None else dataset.bins(self.window_ms)
        if window <= burn_in:
            raise UsageError(
                f"{dataset.path}: bins of {dataset.dt_ms:g} ms, too long for windows of "
                f"{self.window_ms} ms; use --protocol stateful"
            )
        return [
            (scored - burn_in, scored, min(scored + window - burn_in, n_steps))
            for scored in range(dataset.bins(self.ignored_ms), n_steps, window - burn_in)
        ]


#: ``stateful``: whole trials. ``blog``: windows as the blog validated on. ``published``: as the
#: L5PC papers score (Beniaguev et al. 2021; Spieler et al. 2024).
PROTOCOLS = {
    "stateful": Protocol(),
    "blog": Protocol(window_ms=1000),
    "published": Protocol(
        window_ms=500,
        burn_in_ms=150,
        ignored_ms=500,
        max_spikes=24,
        labels="legacy",
        rescale_voltage=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Outputs(Comparison):
    """What a stack and the neuron did in the bins that count, and what was run.

    Attributes
    ----------
    trials : int64 [N]
        Their numbers in the data set.
    dropped : int
        Trials left out for their many spikes.
    first_bin : int
        The bin of the trial that column 0 is.
    protocol, labels : str
    seconds : float
        How long the stack ran, reading included.
    """

    trials: NDArray[np.int64]
    dropped: int
    first_bin: int
    protocol: str
    labels: str
    seconds: float


def run_protocol(
    stack: RecurrentStack,
    dataset: Dataset,
    trials: Sequence[int] | NDArray[np.integer],
    protocol: str = "stateful",
    labels: str | None = None,
    progress: BinsCallback | None = None,
) -> Outputs:
    """Run ``stack`` over ``trials`` as ``protocol`` says.

    Parameters
    ----------
    stack : RecurrentStack
    dataset : Dataset
    trials : sequence of int
    protocol : str
        A key of :data:`PROTOCOLS`.
    labels : "exact" | "legacy", optional
        By default the protocol's.
    progress : callable, optional
        Called with (bins done, bins in all) after each chunk.

    Raises
    ------
    UsageError
        If there is no such protocol, the trials are too short for it, all have too many spikes, or
        the data have another number of input channels than the stack.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}: expected {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[protocol]
    labels = labels or rules.labels
    windows = rules.windows(dataset)
    if not windows:
        raise UsageError(
            f"{dataset.path}: trials of {dataset.header.duration_ms:g} ms, protocol {protocol} "
            f"leaves out the first {rules.ignored_ms} ms; use --protocol stateful"
        )
    asked = np.asarray(trials, dtype=np.int64)
    kept = asked
    if rules.max_spikes is not None:
        counts = np.array([len(dataset.spike_times(int(trial), labels)) for trial in asked])
        kept = asked[counts <= rules.max_spikes]
    if not len(kept):
        raise UsageError(
            f"{dataset.path}: all {len(asked)} trials have more than {rules.max_spikes} spikes, "
            f"which protocol {protocol} leaves out; use --protocol stateful"
        )
    started = time.perf_counter()
    total = len(kept) * sum(stop - start for start, _, stop in windows)
    done = 0
    pieces = []
    for start, scored, stop in windows:
        before = done

        def advance(bins: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + bins, total)

        logits, voltage = predict_dataset(
            stack, dataset, kept, progress=advance, start=start, stop=stop
        )
        done += logits.size
        pieces.append((logits[:, scored - start :], voltage[:, scored - start :]))
    logits, voltage = (np.concatenate(parts, axis=1) for parts in zip(*pieces, strict=True))
    first = np.full(len(kept), windows[0][1])
    return Outputs(
        logits=logits,
        voltage=voltage,
        spikes=dataset.spikes(kept, first, logits.shape[1], labels),
        target=dataset.voltage(kept, first, logits.shape[1]),
        dt_ms=dataset.dt_ms,
        rescale_voltage=rules.rescale_voltage,
        trials=kept,
        dropped=len(asked) - len(kept),
        first_bin=windows[0][1],
        protocol=protocol,
        labels=labels,
        seconds=time.perf_counter() - started,
    )
