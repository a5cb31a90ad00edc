r"""The input stage ``branches``: signed synapses, summed into leaky traces on a few branches.

With :math:`w_{bc} \ge 0` the weight of channel *c* on branch *b*, :math:`\sigma_c` the sign of the
channel and :math:`\tau_b` the branch's time constant in bins, bin *t* gives the first layer

.. math::
    s_t = e^{-1/\tau} \odot s_{t-1} + u_t, \quad u_{t,b} = \sum_c \sigma_c w_{bc} x_{t,c}, \quad
    y_t = s_t \text{ or } \tanh(s_t)

Per synapse that is the trace of Spieler et al. (2024): synapses of one branch share its time
constant, so their sum is a trace too. The traces are part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate.errors import UsageError

__all__ = ["MAX_BRANCHES", "SATURATIONS", "WEIGHTS", "Branches", "decay", "effective_weights"]

#: How parameters become weights that are not negative.
WEIGHTS = ("softplus", "relu")
SATURATIONS = ("tanh", "none")
MAX_BRANCHES = 512


@dataclass(frozen=True)
class Branches:
    """Which channels feed which branch, and how.

    Attributes
    ----------
    channels : sequence of sequence of int
        The channels of each branch, each at most once: a connection each, with a weight of its own.
        A channel may feed several branches or none.
    signs : sequence of int
        1 or -1 for each input channel; 0 where the sign is not known, so that the weights of the
        channel's connections may have any.
    weights : "softplus" | "relu"
        How a parameter becomes a weight that is not negative.
    saturation : "tanh" | "none"
        Of the traces, before the first layer.

    Raises
    ------
    UsageError
        If a field has a value outside its range; the message names value and range.
    """

    channels: Sequence[Sequence[int]] = field(repr=False)
    signs: Sequence[int] = field(repr=False)
    weights: str = "softplus"
    saturation: str = "tanh"

    def __post_init__(self) -> None:
        channels = tuple(tuple(map(index, fed_by)) for fed_by in self.channels)
        object.__setattr__(self, "channels", channels)
        object.__setattr__(self, "signs", tuple(map(index, self.signs)))
        for name, value, known in (
            ("weights", self.weights, WEIGHTS),
            ("saturation", self.saturation, SATURATIONS),
        ):
            if value not in known:
                raise UsageError(f"branch {name} {value!r}: expected {' or '.join(known)}")
        if not 1 <= self.count <= MAX_BRANCHES:
            raise UsageError(f"{self.count} branches: expected 1 to {MAX_BRANCHES}")
        if not set(self.signs) <= {-1, 0, 1}:
            raise UsageError(f"signs {set(self.signs)}: expected 1, -1 or 0 for each channel")
        for branch, fed_by in enumerate(self.channels):
            inside = range(len(self.signs))
            if len(set(fed_by)) < len(fed_by) or not all(one in inside for one in fed_by):
                raise UsageError(
                    f"branch {branch} has channels {fed_by!r:.60}: expected different ones from 0 "
                    f"to {len(self.signs) - 1}"
                )
        if not self.connections:
            raise UsageError("branches without channels: expected at least one connection")

    @property
    def flat(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Number of channels of each branch, and all of them, branch after branch."""
        return tuple(map(len, self.channels)), tuple(chain.from_iterable(self.channels))

    @property
    def count(self) -> int:
        """Number of branches."""
        return len(self.channels)

    @cached_property
    def connections(self) -> int:
        """Number of connections."""
        return sum(map(len, self.channels))

    @cached_property
    def channel(self) -> Tensor:
        """The channel of each connection, int64 [connections], branch after branch."""
        return torch.tensor(self.flat[1])

    @cached_property
    def branch(self) -> Tensor:
        """The branch of each connection, int64 [connections]."""
        return torch.repeat_interleave(torch.tensor(self.flat[0]))

    @cached_property
    def sign(self) -> Tensor:
        """The sign of each connection, int64 [connections]."""
        return torch.tensor(self.signs)[self.channel]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes: a weight per connection, a time constant per branch."""
        return {"branches.weight": (self.connections,), "branches.log_tau": (self.count,)}

    def signed(self, weight: Tensor) -> Tensor:
        """The signed weights [..., connections] that the parameters ``weight`` stand for."""
        sign = self.sign.to(weight.device)
        positive = F.softplus(weight) if self.weights == "softplus" else F.relu(weight)
        return torch.where(sign == 0, weight, sign * positive)

    def parameter_of(self, weight: float) -> float:
        """The parameter of a weight > 0."""
        return math.log(math.expm1(weight)) if self.weights == "softplus" else weight

    def dense(self, signed: Tensor) -> Tensor:
        """Signed weights as a matrix [branches, input channels]."""
        matrix = signed.new_zeros(self.count, len(self.signs))
        at = self.branch.to(signed.device), self.channel.to(signed.device)
        return matrix.index_put(at, signed)

    def saturate(self, traces: Tensor) -> Tensor:
        """What the first layer sees of the traces."""
        return torch.tanh(traces) if self.saturation == "tanh" else traces


def decay(log_tau: Tensor) -> Tensor:
    """What is kept per bin, exp(-1/tau), from the logarithm of tau in bins."""
    return torch.exp(-torch.exp(-log_tau))


def effective_weights(
    branches: Branches | None, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Parameters as the kernels use them, differentiably, by the same names in the same order.

    ``branches.weight`` becomes the signed weights, and every ``log_tau`` the share kept per bin.
    With a leading axis where each model or neuron has its own.
    """
    ready = dict(weights)
    for name, value in weights.items():
        if name.endswith("log_tau"):
            ready[name] = decay(value)
    if branches is not None:
        ready["branches.weight"] = branches.signed(weights["branches.weight"])
    return ready
