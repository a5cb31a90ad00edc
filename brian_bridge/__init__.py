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
from surrogate.brian_bridge.neuron import SurrogateNeuron, warm_state
from surrogate.brian_bridge.thresholds import Level, LocalPeak, RisingEdge, Stochastic

__all__ = [
    "ArtificialUnits",
    "Level",
    "LocalPeak",
    "RisingEdge",
    "Stochastic",
    "SurrogateNeuron",
    "warm_state",
]
