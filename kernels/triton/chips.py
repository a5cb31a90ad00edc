"""Data of GPUs, for plans and predictions.

Rates and sizes are the vendor's: NVIDIA's data sheets of the A100 80GB SXM, the H100 SXM and the
H200 SXM, and the A100 white paper (5120 bytes per clock from the L2 cache, 64 of them to one
multiprocessor), whose cache figures are taken for the H100 and H200 too. Delays are assumptions
until a GPU run corrects them; none is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

__all__ = [
    "BARRIER_SECONDS",
    "CACHE_SECONDS",
    "CHIPS",
    "LAUNCH_SECONDS",
    "SYNC_SECONDS",
    "Chip",
    "chip_of",
]

#: From one kernel's end to the next one's first instruction, in a CUDA graph. Assumed.
LAUNCH_SECONDS = 3e-6
#: A barrier among programs: two round trips to the L2 cache. Assumed.
BARRIER_SECONDS = 1.5e-6
#: A barrier among the threads of a program, with the arithmetic's latency around it. Assumed.
SYNC_SECONDS = 0.3e-6
#: A load that hits the L2 cache, if the program waits for it. Assumed.
CACHE_SECONDS = 0.2e-6


@dataclass(frozen=True)
class Chip:
    """A GPU as its data sheet describes it.

    Attributes
    ----------
    capability : int
        CUDA compute capability times ten.
    processors : int
        Streaming multiprocessors.
    flops_per_second : float
        Of float32 outside the matrix units, a multiply-add counting as two.
    memory_bytes_per_second : float
    """

    capability: int
    processors: int
    flops_per_second: float
    memory_bytes_per_second: float

    @property
    def clock(self) -> float:
        """Hz: each multiprocessor makes 128 (A100: 64) float32 multiply-adds per clock."""
        lanes = 64 if self.capability == 80 else 128
        return self.flops_per_second / (self.processors * 2 * lanes)

    @property
    def cache_bytes_per_second(self) -> float:
        """From the L2 cache to all multiprocessors."""
        return 5120 * self.clock

    @property
    def cache_bytes_per_second_of_one(self) -> float:
        """From the L2 cache to one multiprocessor."""
        return 64 * self.clock


CHIPS = {
    "A100": Chip(80, 108, 19.5e12, 2.039e12),
    "H100": Chip(90, 132, 67e12, 3.35e12),
    "H200": Chip(90, 132, 67e12, 4.8e12),
}


def chip_of(device: torch.device) -> Chip:
    """The data of ``device``; for an unknown one, an H200's rates with its own processors."""
    if device.type != "cuda":
        return CHIPS["H200"]
    properties = torch.cuda.get_device_properties(device)
    known = (chip for name, chip in CHIPS.items() if name in properties.name)
    return replace(next(known, CHIPS["H200"]), processors=properties.multi_processor_count)
