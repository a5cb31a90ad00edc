"""What is measured: a stack, a mode, sizes, and inputs drawn at the rate of the L5PC data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surrogate.kernels import SpikeEvents, StackSpec

__all__ = ["MODES", "Case", "Problem", "join_state", "split_state"]

MODES = ("train", "evaluate", "step")

#: Share of the 1278 channels that spike in a 1 ms bin of the bundled sample: 14 events per bin.
ACTIVE_SHARE = 0.011

# The peers' dense inputs of one pass in mode step: all bins together stay below this.
_DENSE_BYTES_OF_BINS = 64 * 2**20


@dataclass(frozen=True)
class Case:
    """One configuration of the table.

    Attributes
    ----------
    spec : StackSpec
    mode : "train" | "evaluate" | "step"
        Forward and backward of a batch; forward alone without gradients; one bin per call.
    batch : int
        Sequences, or in mode step neurons.
    steps : int
        Bins of a sequence; in mode step 1.
    device : "cpu" | "cuda"
    """

    spec: StackSpec
    mode: str
    batch: int
    steps: int = 1
    device: str = "cpu"

    @property
    def config(self) -> str:
        """Architecture and sizes, such as ``"lstm 256-64-2"``."""
        return self.spec.name

    @property
    def row(self) -> dict[str, Any]:
        """The keys of a result's row that say which case it is of."""
        step = self.mode == "step"
        return {
            "config": self.config,
            "mode": self.mode,
            "neurons": self.batch if step else None,
            "batch": None if step else self.batch,
            "steps": self.steps,
        }

    @property
    def dense_bytes(self) -> int:
        """Memory of the peers' dense float32 input of one call."""
        return self.batch * self.steps * self.spec.input_size * 4

    @property
    def calls(self) -> int:
        """Calls that one pass over a problem's input takes: in mode step one per bin.

        An even number, so that a peer may alternate between two buffers.
        """
        if self.mode != "step":
            return 1
        return 2 * min(128, max(1, _DENSE_BYTES_OF_BINS // self.dense_bytes // 2))


@dataclass(frozen=True)
class Problem:
    """Inputs of one case, the same for ours and for every peer.

    Attributes
    ----------
    case : Case
    weights : dict of str to Tensor
        Canonical parameters: Xavier-uniform weights, biases in ±0.1, so that no bias goes unseen.
    events : SpikeEvents
        The batch; in mode step ``case.calls`` bins of every neuron.
    state : Tensor [batch, spec.state_size]
    upstream : Tensor [batch, steps, 2]
        Gradients of some loss with respect to the outputs.
    """

    case: Case
    weights: dict[str, Tensor]
    events: SpikeEvents
    state: Tensor
    upstream: Tensor

    @classmethod
    def draw(cls, case: Case, seed: int = 0) -> Problem:
        """Draw the inputs of ``case``; on the CPU, so that every device gets the same."""
        rng = np.random.default_rng(seed)
        steps = case.calls if case.mode == "step" else case.steps
        weights = {
            name: torch.from_numpy(rng.uniform(-limit, limit, shape).astype(np.float32))
            for name, shape in case.spec.parameter_shapes().items()
            for limit in [(6 / sum(shape)) ** 0.5 if len(shape) == 2 else 0.1]
        }
        state = rng.uniform(-0.5, 0.5, (case.batch, case.spec.state_size)).astype(np.float32)
        upstream = rng.standard_normal((case.batch, steps, 2), np.float32)
        drawn = cls(
            case,
            weights,
            _draw_events(rng, case.batch, steps, case.spec.input_size),
            torch.from_numpy(state),
            torch.from_numpy(upstream),
        )
        return drawn if case.device == "cpu" else drawn.to(case.device)

    def to(self, device: str) -> Problem:
        """The same problem on ``device``."""
        return replace(
            self,
            weights={name: weight.to(device) for name, weight in self.weights.items()},
            events=self.events.to(device),
            state=self.state.to(device),
            upstream=self.upstream.to(device),
        )

    def bins(self) -> list[tuple[Tensor, Tensor]]:
        """Channels and row pointers of each bin of all neurons, as ``Stepper.step`` takes them."""
        slices = [self.events.slice_steps(t, t + 1) for t in range(self.events.steps)]
        return [(one.channel, one.row_ptr) for one in slices]


def _draw_events(rng: np.random.Generator, batch: int, steps: int, channels: int) -> SpikeEvents:
    """Every channel spikes in every bin with one probability, independently.

    The gaps between the events of such a process are geometric, so nothing dense is drawn.
    """
    total = batch * steps * channels
    expected = total * ACTIVE_SHARE
    gaps = rng.geometric(ACTIVE_SHARE, int(expected + 8 * expected**0.5 + 8))
    places = gaps.cumsum() - 1
    places = places[places < total]
    row_ptr = np.zeros(batch * steps + 1, np.int32)
    row_ptr[1:] = np.bincount(places // channels, minlength=batch * steps).cumsum()
    channel = torch.from_numpy((places % channels).astype(np.int16))
    return SpikeEvents(channel, torch.from_numpy(row_ptr), batch, steps)


def split_state(spec: StackSpec, state: Tensor) -> list[Tensor]:
    """Copies of the parts of ``state`` [B, S], layers in order, h then c: [B, H] each."""
    places = [at for layer in spec.state_slices for at in layer.values()]
    return [state[:, at].clone(memory_format=torch.contiguous_format) for at in places]


def join_state(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of :func:`split_state`; parts may be [1, B, H], as torch.nn gives them."""
    return torch.cat([part.flatten(0, -2) for part in parts], 1)
