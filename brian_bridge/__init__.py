"""Trained surrogates as neurons of Brian2 networks."""

from __future__ import annotations

try:
    import brian2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "SurrogateNeuron needs Brian2, which cannot be imported "
        f"({error}); install it with: pip install 'brian2>=2.9'"
    ) from error

from surrogate.brian_bridge.artificial import ArtificialUnits
from surrogate.brian_bridge.background import Background
from surrogate.brian_bridge.neuron import SurrogateNeuron
from surrogate.brian_bridge.recorded import RecordedSpikes, sonata_spikes
from surrogate.brian_bridge.thresholds import (
    Hysteresis,
    Level,
    LocalPeak,
    RisingEdge,
    Stochastic,
)
from surrogate.brian_bridge.warm import warm_state

__all__ = [
    "ArtificialUnits",
    "Background",
    "Hysteresis",
    "Level",
    "LocalPeak",
    "RecordedSpikes",
    "RisingEdge",
    "Stochastic",
    "SurrogateNeuron",
    "sonata_spikes",
    "warm_state",
]
