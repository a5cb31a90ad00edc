"""Spike events: the sparse form of the input, from disk to kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SpikeEvents"]


@dataclass(frozen=True)
class SpikeEvents:
    """Which input channels spike in each bin of a batch, in compressed-sparse-row form.

    Row ``b * steps + t`` lists the channels active in bin ``t`` of batch element ``b``. A channel
    is active or not: there are no values.

    Attributes
    ----------
    channel : Tensor, int16 [E]
        Channel numbers, ascending and unique within a row. Two bytes hold 32,768 channels and
        keep a (32, 1000) batch of 14 spikes per ms at 1 MB.
    row_ptr : Tensor, int32 [batch * steps + 1]
        Row r holds ``channel[row_ptr[r]:row_ptr[r + 1]]``.
    batch, steps : int
        Number of sequences and their length in bins.
    """

    channel: Tensor
    row_ptr: Tensor
    batch: int
    steps: int

    def __post_init__(self) -> None:
        for name, dtype in (("channel", torch.int16), ("row_ptr", torch.int32)):
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.dim() != 1:
                raise ValueError(
                    f"SpikeEvents.{name} must be a one-dimensional {dtype} tensor, "
                    f"not {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
        if self.channel.device != self.row_ptr.device:
            raise ValueError(
                f"SpikeEvents.channel lies on {self.channel.device}, row_ptr on "
                f"{self.row_ptr.device}: expected one device"
            )
        if self.row_ptr.numel() != self.batch * self.steps + 1:
            raise ValueError(
                f"SpikeEvents.row_ptr has {self.row_ptr.numel()} entries, expected "
                f"batch * steps + 1 = {self.batch * self.steps + 1}"
            )

    @property
    def nbytes(self) -> int:
        """Memory held by the event lists, in bytes."""
        return self.channel.nbytes + self.row_ptr.nbytes

    @property
    def device(self) -> torch.device:
        """The device of the event lists."""
        return self.channel.device

    def to(self, device: torch.device | str) -> SpikeEvents:
        """The same events on ``device``."""
        return SpikeEvents(self.channel.to(device), self.row_ptr.to(device), self.batch, self.steps)

    def validate(self, input_size: int) -> None:
        """Check that the events obey the format; needs a pass over them.

        Raises
        ------
        ValueError
            If pointers decrease or leave the list, channels leave ``0..input_size - 1``, or a row
            is not ascending and unique.
        """
        ptr, channel = self.row_ptr.long(), self.channel
        if ptr[0] != 0 or ptr[-1] != channel.numel() or (ptr.diff() < 0).any():
            raise ValueError("SpikeEvents.row_ptr must rise from 0 to the number of events")
        if channel.numel():
            # As Python's integers: compared with a tensor of int16, 2**15 would overflow.
            lowest, highest = int(channel.min()), int(channel.max())
            if lowest < 0 or highest >= input_size:
                raise ValueError(
                    f"SpikeEvents.channel spans {lowest}..{highest}, expected 0..{input_size - 1}"
                )
        first_of_row = torch.zeros(channel.numel() + 1, dtype=torch.bool, device=self.device)
        first_of_row[ptr] = True
        if not ((channel.diff() > 0) | first_of_row[1:-1]).all():
            raise ValueError("SpikeEvents.channel must be ascending and unique within a row")

    def rows(self) -> Tensor:
        """The row of each event, int64 [E]."""
        counts = self.row_ptr.diff()
        return torch.repeat_interleave(
            torch.arange(counts.numel(), device=self.device), counts.long()
        )

    def slice_steps(self, start: int, stop: int) -> SpikeEvents:
        """Bins ``start..stop - 1`` of every batch element."""
        return self.windows(range(self.batch), [start] * self.batch, stop - start)

    def windows(self, sequences: Sequence[int], starts: Sequence[int], steps: int) -> SpikeEvents:
        """Bins ``starts[i]..starts[i] + steps - 1`` of ``sequences[i]``, for each i."""
        first = torch.tensor(sequences) * self.steps + torch.tensor(starts)
        rows = (first[:, None] + torch.arange(steps + 1)).to(self.device)
        pointers = self.row_ptr[rows]
        row_ptr = torch.zeros(len(first) * steps + 1, dtype=torch.int32, device=self.device)
        row_ptr[1:] = pointers.diff().flatten().cumsum(0)
        edges = pointers[:, [0, -1]].tolist()
        channel = torch.cat([self.channel[begin:end] for begin, end in edges])
        return SpikeEvents(channel, row_ptr, len(first), steps)

    def slice_batch(self, first: int, count: int) -> SpikeEvents:
        """``count`` sequences from ``first`` on."""
        pointers = self.row_ptr[first * self.steps : (first + count) * self.steps + 1]
        start, stop = int(pointers[0]), int(pointers[-1])
        return SpikeEvents(self.channel[start:stop], pointers - pointers[0], count, self.steps)

    @classmethod
    def concatenate(cls, parts: Sequence[SpikeEvents]) -> SpikeEvents:
        """The sequences of ``parts``, which have the same length, one after the other."""
        pieces, total = [parts[0].row_ptr[:1]], 0
        for part in parts:
            pieces.append(part.row_ptr[1:] + total)
            total += part.channel.numel()
        return cls(
            torch.cat([part.channel for part in parts]),
            torch.cat(pieces),
            sum(part.batch for part in parts),
            parts[0].steps,
        )

    def to_dense(self, input_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros and ones [batch, steps, input_size]. For tests and the reference only.

        A dense (32, 1000, 1278) float32 batch takes 164 MB where its events take about 1 MB.
        """
        dense = torch.zeros(self.batch * self.steps, input_size, dtype=dtype, device=self.device)
        dense[self.rows(), self.channel.long()] = 1
        return dense.view(self.batch, self.steps, input_size)

    @classmethod
    def from_dense(cls, dense: Tensor) -> SpikeEvents:
        """Events of every nonzero entry of ``dense`` [batch, steps, input_size]."""
        batch, steps, _ = dense.shape
        active = dense.reshape(batch * steps, -1) != 0
        row_ptr = torch.zeros(batch * steps + 1, dtype=torch.int32, device=dense.device)
        row_ptr[1:] = active.sum(1).cumsum(0)
        return cls(active.nonzero()[:, 1].to(torch.int16), row_ptr, batch, steps)
