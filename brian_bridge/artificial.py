"""Artificial units: any stepwise network of torch as a group of a Brian2 network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from brian2 import NetworkOperation, Quantity, ms
from brian2.core.base import weakproxy_with_fallback
from brian2.devices.device import RuntimeDevice
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from surrogate.brian_bridge.binned import BinnedGroup
from surrogate.errors import UsageError

__all__ = ["ArtificialUnits"]

Module = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_CONTRACT = (
    "it must be called as module(x, state) and return (y, state), tensors of shapes "
    "[N, input_size], [N, state_size] and [N, output_size]; without a state, return the one given, "
    "as in lambda x, state: (linear(x), state)"
)


class ArtificialUnits(BinnedGroup):
    """N units that compute ``module(x[N, I], state[N, S]) -> (y[N, O], state[N, S])`` every step.

    For a readout, a policy or a trained layer in a network of neurons. Input comes through
    Synapses onto ``inputs``: spikes, each adding a weight (``on_pre="x_post += w"``), or rates (a
    summed variable, ``x_post = w * r_pre : 1 (summed)``). Output is the variable ``y``, or ``y_0``,
    ``y_1``, ... with more outputs than one, for synapses and thresholds to read.

    A step at time t takes the input of t - step <= time < t, before anything else happens at t.

    Parameters
    ----------
    N : int
        Number of units, the rows of the module's tensors.
    module : callable
        Such as a ``torch.nn.Module``; called without gradients, on float32 tensors. Its parameters
        are not part of ``store()``, its state is.
    input_size, output_size, state_size : int
        I, O and S. S may be 0.
    receives : "spikes" | "rates"
        Whether ``x`` is set to zero after a step (spikes of a step add up), or stays as it is.
    step : Quantity
        Time between two steps, a whole multiple of the group's time step.
    threshold, reset, refractory, equations, namespace, dt, clock, order, name
        As in NeuronGroup, over ``y``; a threshold is checked only in time steps with a step.

    Attributes
    ----------
    inputs : NeuronGroup
        N x I elements; input i of unit n is ``n * I + i``.

    Raises
    ------
    UsageError
        If the active device is not Brian2's runtime device: compiled code cannot call the module;
        or if the module cannot be called with input and state, or does not return output and state
        of the given sizes.
    """

    # Compiled code cannot call the module.
    devices: ClassVar = {RuntimeDevice: "set_device('runtime')"}

    def __init__(
        self,
        N: int,
        module: Module,
        *,
        input_size: int,
        output_size: int = 1,
        state_size: int = 0,
        receives: str = "spikes",
        step: Quantity = 1 * ms,
        threshold: str | None = None,
        reset: str | None = None,
        refractory: Quantity | str | bool = False,
        equations: str = "",
        namespace: dict[str, Any] | None = None,
        dt: Quantity | None = None,
        clock: Any = None,
        order: int = 0,
        name: str = "artificialunits*",
    ) -> None:
        if receives not in ("spikes", "rates"):
            raise UsageError(f"receives={receives!r}: expected 'spikes' or 'rates'")
        _check_call(module)
        self.module, self.receives = module, receives
        self.sizes = input_size, output_size, state_size
        #: Names of the outputs.
        self.outputs = ["y"] if output_size == 1 else [f"y_{o}" for o in range(output_size)]
        super().__init__(
            N,
            "\n".join([f"{output} : 1" for output in self.outputs] + [equations]),
            threshold,
            reset=reset,
            refractory=refractory,
            namespace=namespace,
            dt=dt,
            clock=clock,
            order=order,
            name=name,
        )
        # Brian2 has no empty arrays.
        self.variables.add_array("_state", size=max(N * state_size, 1), dtype=np.float32)
        self._contain_inputs(N * input_size, "x : 1", np.float32)
        self._contain_step(_Step, step)

    @property
    def state_array(self) -> NDArray[np.float32]:
        """State of the module in Brian2's memory, [N, S]."""
        size = self._N * self.sizes[2]
        return self.variables["_state"].get_value()[:size].reshape(self._N, -1 if size else 0)

    def input_index(self, unit: ArrayLike, number: ArrayLike) -> NDArray[np.int64]:
        """Index of input ``number`` of ``unit`` in ``inputs``, for ``connect(j=...)``."""
        return np.asarray(unit, np.int64) * self.sizes[0] + np.asarray(number, np.int64)


class _Step(NetworkOperation):
    """Calls the module on tensors that share Brian2's memory."""

    def __init__(self, units: ArtificialUnits, **schedule: Any) -> None:
        super().__init__(self._advance, **schedule)
        self.group = weakproxy_with_fallback(units)

    def before_run(self, run_namespace: Any) -> None:
        super().before_run(run_namespace)
        units = self.group
        inputs, outputs, _ = units.sizes
        self._input = torch.from_numpy(units.inputs.variables["x"].get_value().reshape(-1, inputs))
        self._state = torch.from_numpy(units.state_array)
        self._outputs = [units.variables[name].get_value() for name in units.outputs]
        self._expected = (len(units), outputs), tuple(self._state.shape)
        self._timestep = self.clock.variables["timestep"].get_value()
        self._first_step = units.variables["_first_step"].get_value()
        self._stepped_at = units.variables["_stepped_at"].get_value()
        self._time = units.clock.variables["t"].get_value()

    def _advance(self) -> None:
        if self._timestep[0] < self._first_step[0]:
            return
        with torch.no_grad():
            returned = self.group.module(self._input, self._state)
        if not _is_pair(returned):
            raise UsageError(
                f"{self.group.name!r}: the module returned {_told(returned)}; {_CONTRACT}"
            )
        y, state = returned
        if (tuple(y.shape), tuple(state.shape)) != self._expected:
            raise UsageError(
                f"{self.group.name!r}: the module returned shapes {tuple(y.shape)} and "
                f"{tuple(state.shape)}, expected {self._expected[0]} for y and "
                f"{self._expected[1]} for the state"
            )
        for array, column in zip(self._outputs, y.numpy().T, strict=True):
            array[:] = column
        self._state.copy_(state)
        if self.group.receives == "spikes":
            self._input.zero_()
        self._stepped_at[0] = self._time[0]


def _check_call(module: Any) -> None:
    """Refuse what cannot be called with input and state, such as a layer without a state."""
    if not callable(module):
        raise UsageError(f"module {module!r} cannot be called; {_CONTRACT}")
    try:
        # torch's own __call__ takes anything.
        called = module.forward if isinstance(module, torch.nn.Module) else module
        signature = inspect.signature(called)
    except ValueError:  # functions of C modules may have none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UsageError(f"module {module!r} takes {signature}; {_CONTRACT}") from error


def _is_pair(returned: Any) -> bool:
    return (
        isinstance(returned, tuple | list)
        and len(returned) == 2
        and all(isinstance(one, Tensor) for one in returned)
    )


def _told(returned: Any) -> str:
    if isinstance(returned, tuple | list):
        return f"({', '.join(type(one).__name__ for one in returned)})"
    return f"one {type(returned).__name__}"
