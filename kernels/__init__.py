"""The recurrent stacks: one specification, and the providers that compute it fast."""

from surrogate.kernels.events import SpikeEvents

__all__ = ["SpikeEvents"]
