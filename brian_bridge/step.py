"""The step of a surrogate at run time: one call of the fused kernel for all neurons of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
from brian2 import NetworkOperation
from brian2.core.base import weakproxy_with_fallback
from numpy.typing import NDArray

from surrogate.brian_bridge.gpu import GpuStepper
from surrogate.brian_bridge.stepped import SteppedGroup
from surrogate.kernels.stepper import Stepper
from surrogate.model.philox import logistic

__all__ = ["RuntimeStep"]


class RuntimeStep(NetworkOperation):
    """The step at the end of a bin: takes spike counts, gives voltage and spike probability.

    Works in place on the arrays of Brian2: nothing is copied, and store/restore include the state.
    """

    #: Of the spike counts; Brian2's Cython target has no smaller integer.
    count_dtype = np.int32

    def __init__(self, neuron: SteppedGroup, **schedule: Any) -> None:
        super().__init__(self._advance, **schedule)
        self.group = weakproxy_with_fallback(neuron)
        self._stepper: Stepper | GpuStepper | None = None

    def before_run(self, run_namespace: Any) -> None:
        super().before_run(run_namespace)
        if self._stepper is None:
            self._bind()

    def _bind(self) -> None:
        neuron, size = self.group, len(self.group)
        own = {name: neuron.variables[name].get_value() for name in neuron.step_variables}
        population = neuron.population
        state, outputs = own["_state"].reshape(size, -1), own["_outputs"].reshape(size, 2)
        model = population.spec, population.weights(), size
        if neuron.device == "cpu":
            options = {"dtype": state.dtype, "threads": neuron.threads}
            self._stepper = Stepper(*model, state=state, outputs=outputs, **options)
        else:
            self._stepper = GpuStepper(*model, state=state, outputs=outputs, device=neuron.device)
        self._counts = neuron.inputs.variables["x"].get_value().reshape(size, -1)
        self._own, self._spec = own, population.spec
        self._first_channels = population.card.channels.bounds[:-1]
        self._drives = [(drive.channels.adder(), own[drive.variable]) for drive in neuron.drives]
        self._recorded = neuron.recorded
        self._seed = getattr(neuron.threshold, "seed", 0)
        # Oldest last: each gets the value of the one before it.
        self._logits = [own[name] for name in ("_logit", *neuron.history)]
        if "_rose" in own:
            self._level, self._low_level = (
                neuron.variables[name].get_value() for name in ("_level", "_low_level")
            )
        self._timestep = self.clock.variables["timestep"].get_value()
        self._time = neuron.clock.variables["t"].get_value()
        self._first_step = neuron.variables["_first_step"].get_value()
        self._stepped_at = neuron.variables["_stepped_at"].get_value()

    def _advance(self) -> None:
        timestep = int(self._timestep[0])
        if timestep < self._first_step[0]:
            return
        own, stepper = self._own, self._stepper
        assert stepper is not None
        self._sample_arrivals(timestep, own["_arrivals"])
        for add, rate in self._drives:
            add(self._counts, rate, timestep)
        if self._recorded is not None:
            self._recorded.add(self._counts, timestep)
        if "_received" in own:
            self._sample_arrivals(timestep, own["_received"])
        stepper.step_counts(self._counts, own["lost"])
        for newer, older in zip(self._logits[-2::-1], self._logits[:0:-1], strict=True):
            older[:] = newer
        own["_logit"][:] = stepper.outputs[:, 0]
        # The same function as 1 / (1 + exp(-logit)), without its overflow.
        own["p"][:] = 0.5 * (1 + np.tanh(0.5 * own["_logit"]))
        voltage = stepper.outputs[:, 1].astype(np.float64)
        own["v"][:] = (voltage * self._spec.voltage_scale + self._spec.voltage_offset) * 1e-3
        if "_noise" in own:
            own["_noise"][:] = logistic(self._seed, timestep, len(self._counts))
        if "_rose" in own:
            reaches = own["_logit"] >= self._level
            own["_rose"][:] = reaches & ~own["_high"]
            own["_high"][:] = reaches | (own["_high"] & (own["_logit"] >= self._low_level))
        self._stepped_at[0] = self._time[0]

    def _sample_arrivals(self, timestep: int, arrivals: NDArray[np.int64]) -> None:
        """Count the arrivals at one neuron, another at each step: counting all takes too long."""
        row = self._counts[timestep % len(self._counts)]
        arrivals[:-1] += np.add.reduceat(np.maximum(row, 0), self._first_channels)
        arrivals[-1] += 1

    def pull(self) -> None:
        """Copy the hidden state into Brian2's arrays if it is kept elsewhere."""
        if isinstance(self._stepper, GpuStepper):
            self._stepper.pull()

    def push(self) -> None:
        """Copy the hidden state from Brian2's arrays if it is kept elsewhere."""
        if isinstance(self._stepper, GpuStepper):
            self._stepper.push()

    def after_run(self) -> None:
        super().after_run()
        if isinstance(self._stepper, GpuStepper):
            self._stepper.check()
        self.group.warn_about_rates()
