"""What surrogates and artificial units share: groups that take their input in bins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from brian2 import Clock, NeuronGroup, Quantity, get_device, second
from brian2.core.base import BrianObject

from surrogate.brian_bridge.blame import made_by_user
from surrogate.brian_bridge.checks import (
    check_device,
    check_refractory,
    check_schedule,
    check_time_step,
    check_whole,
    check_writers,
)
from surrogate.brian_bridge.counts import Counts
from surrogate.errors import UsageError

__all__ = ["BinnedGroup"]


class BinnedGroup(NeuronGroup):
    """A NeuronGroup with ``inputs`` and a step at the end of each bin, on a slower clock.

    The group keeps the network's clock, so that delays of its spikes are exact to the network's
    time step. The step runs in ``before_start``, before anything can arrive at that time, and sets
    ``_stepped_at``, so that the group emits spikes only in that time step.

    Parameters
    ----------
    condition : str or None
        Condition for a spike after a step.
    others
        As in NeuronGroup.
    """

    #: Classes of Brian2's devices on which the group runs, and how to choose them.
    devices: ClassVar[Mapping[type, str]]
    #: Variables that only the step may write, and why.
    read_only: ClassVar[Mapping[str, str]] = {}

    def __init__(self, N: int, model: str, condition: str | None, **options: Any) -> None:
        check_device(self.devices, type(self).__name__)
        check_whole("N", N)
        check_refractory(options["refractory"])
        self._device = get_device()
        # An event rather than a threshold, for which Brian2 would ask for a reset.
        events = {"spike": f"t == _stepped_at and ({condition})"} if condition else {}
        super().__init__(N, model, events=events, **options)
        add = self.variables.add_array
        add("_stepped_at", size=1, dimensions=second.dim, dtype=np.float64, scalar=True)
        self.variables["_stepped_at"].set_value(-1.0)
        # The first step that closes a bin; unknown (-1) until a run begins with the group in it.
        add("_first_step", size=1, dtype=np.int64, scalar=True, read_only=True)
        self.variables["_first_step"].set_value(-1)
        made_by_user(self)

    def _contain_inputs(self, size: int, model: str, dtype: Any = None) -> None:
        name = f"{self.name}_inputs"
        self._inputs = NeuronGroup(size, model, clock=self.clock, dtype=dtype, name=name)
        x = self._inputs.variables["x"]
        if x.is_integer:
            x.__class__ = Counts  # Brian2 itself makes the variables of a model
        self._contain(self._inputs)

    def _contain_step(self, step: Callable[..., BrianObject], dt: Quantity) -> None:
        name = f"{self.name}_step"
        # Brian2 would number the name of a second clock, and restore() look for the number.
        clock = Clock(dt, name=f"{name}_clock")
        self._step = step(self, clock=clock, when="before_start", order=self.order, name=name)
        self._contain(self._step)

    def _contain(self, contained: BrianObject) -> None:
        self.contained_objects.append(contained)
        made_by_user(self)

    @property
    def inputs(self) -> NeuronGroup:
        """The inputs of all neurons: those of the first, then those of the second, and so on."""
        return self._inputs

    def _set_active(self, value: bool) -> None:
        # Spikes that arrived while the group was inactive are dropped, and the next step is the
        # first that ends a bin in which the group was active.
        if value and not self._active:
            self.inputs.variables["x"].set_value(0)
            self.variables["_first_step"].set_value(-1)
        super()._set_active(value)

    active = property(
        lambda self: self._active,
        _set_active,
        doc="Whether the group runs; while it does not, its model ignores input and does not step.",
    )

    def before_run(self, run_namespace: Any) -> None:
        if get_device() is not self._device:
            raise UsageError(
                f"{self.name!r} was made for another device: call set_device before making it"
            )
        check_time_step(self._step.clock, self.clock, self.name)
        check_schedule(self)
        check_writers(self, self.inputs, self.read_only, run_namespace)
        first_step = self.variables["_first_step"]
        if first_step.get_value()[0] < 0:
            step = self._step.clock
            # No step at the start of a run: no bin has ended then.
            begins = abs(step.t_ - self.clock.t_) < self.clock.dt_ / 2
            first_step.set_value(step.variables["timestep"].get_value()[0] + begins)
        super().before_run(run_namespace)
