"""Independent Poisson spikes on every input channel, drawn within the step of a surrogate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from brian2 import Hz, Quantity, TimedArray
from brian2.units.fundamentalunits import have_same_dimensions
from numpy.typing import NDArray

from surrogate.brian_bridge.poisson import PoissonChannels
from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import UsageError
from surrogate.model.philox import whole_seed

__all__ = ["Background", "Drive", "check_rates"]

Rate: TypeAlias = Quantity | TimedArray | str


class Background:
    """Independent Poisson spikes on every channel of every neuron: ``Background(excitatory=8*Hz)``.

    They are drawn where a bin is closed, at a cost that is that of the spikes, and depend on seed,
    neuron and bin alone: they are the same in every mode of Brian2, in several runs and after
    ``restore``. A background spike is a spike like those of the network: two of either in one bin
    on one channel count as one, and the other is in ``lost``.

    The rates are those of the group's variables ``background_excitatory`` and so on, one for each
    neuron, which can be set between runs and in ``run_args``.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1. Groups with the same seed draw the same numbers.
    **rates
        By the name of a channel group, or by the kind of several: a rate; an array with one for
        each channel of the group; an array [N, 1] with one for each neuron; a TimedArray of one
        dimension, or of two with the neuron as the second; or a Brian2 expression, which like a
        TimedArray is evaluated at the beginning of each bin.

    Raises
    ------
    UsageError
        If there is no rate, or one is not what is expected; that of a group that the model does not
        have is refused by SurrogateNeuron.
    """

    def __init__(self, *, seed: int = 0, **rates: Rate) -> None:
        if not rates:
            raise UsageError("Background without a rate: expected one, such as excitatory=8*Hz")
        self.seed = whole_seed(seed)
        self.rates = rates
        for name, rate in rates.items():
            _check_rate(name, rate)

    def drives(self, channels: Channels, neurons: int, bin_s: float) -> list[Drive]:
        """What is drawn on each channel group of N neurons; raises UsageError if a rate does not
        fit them."""
        for name in self.rates:
            if not any(name in (group.name, group.kind) for group in channels.groups):
                raise UsageError(
                    f"background on {name!r}: the model has no such channels; "
                    f"expected {' or '.join(channels.names)}"
                )
        return list(self._of_groups(channels, neurons, bin_s))

    def _of_groups(self, channels: Channels, neurons: int, bin_s: float) -> Iterator[Drive]:
        for index, group in enumerate(channels.groups):
            rate = self.rates.get(group.name, self.rates.get(group.kind))
            if rate is None:
                continue
            variable = "background_" + re.sub(r"\W", "_", group.name)
            values, share, expression = _resolve(rate, variable, group, neurons)
            first = int(channels.bounds[index])
            drawn = PoissonChannels(self.seed, index + 1, first, share, bin_s)
            namespace = {f"{variable}_at": rate} if isinstance(rate, TimedArray) else {}
            yield Drive(drawn, variable, values, expression, namespace)


@dataclass(frozen=True, eq=False)
class Drive:
    """Background on one channel group.

    Attributes
    ----------
    channels : PoissonChannels
    variable : str
        Name of the variable of the neurons that holds the rate, the mean of the channels.
    rate : array of float, [N] or []
        Its first values, Hz.
    expression : str or None
        What gives it at the beginning of each bin.
    namespace : dict
        Names in the expression that are not the user's.
    """

    channels: PoissonChannels
    variable: str
    rate: NDArray[np.float64]
    expression: str | None
    namespace: dict[str, Any]


def check_rates(name: str, variable: str, rates: NDArray[np.float64]) -> None:
    """Refuse rates of group ``name`` that are negative or not finite."""
    wrong = np.flatnonzero(~((rates >= 0) & np.isfinite(rates)))
    if wrong.size:
        raise UsageError(
            f"{name!r}: {variable} of neuron {wrong[0]} is {rates[wrong[0]]:g} Hz: expected a "
            "finite rate of 0 Hz or more"
        )


def _check_rate(name: str, rate: Any) -> None:
    if isinstance(rate, str):
        return
    values = rate.values if isinstance(rate, TimedArray) else rate
    if not have_same_dimensions(rate, Hz):
        raise UsageError(f"background {name}={rate!r}: expected a rate, such as 8*Hz")
    values = np.asarray(values)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise UsageError(f"background {name}={rate!r}: expected finite rates of 0 Hz or more")


def _resolve(
    rate: Rate, variable: str, group: ChannelGroup, neurons: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], str | None]:
    """First rates of the neurons, relative ones of the channels, an expression for the rates."""
    alike = np.ones(group.size)
    if isinstance(rate, str):
        return np.zeros(()), alike, rate
    if isinstance(rate, TimedArray):
        index = "t" if rate.values.ndim == 1 else "t, i"
        if rate.values.ndim == 2 and rate.values.shape[1] != neurons:
            raise UsageError(
                f"background on {group.name!r}: a TimedArray with {rate.values.shape[1]} columns "
                f"for {neurons} neurons: expected one for each"
            )
        return np.zeros(()), alike, f"{variable}_at({index})"
    values = np.asarray(rate, np.float64)
    if values.shape == (group.size,):
        return values.mean(), values if values.any() else alike, None
    if values.shape in ((), (neurons, 1)):
        return values.reshape(values.shape[:1]), alike, None
    raise UsageError(
        f"background on {group.name!r}: rates of shape {values.shape}; expected one rate, "
        f"({group.size},) with one for each channel, or ({neurons}, 1) with one for each neuron"
    )
