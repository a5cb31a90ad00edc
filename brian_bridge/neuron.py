"""A trained surrogate as a group of Brian2 neurons."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from brian2 import Hz, Quantity, ms
from brian2.devices.cpp_standalone.device import CPPStandaloneDevice
from brian2.devices.device import RuntimeDevice
from brian2.groups.neurongroup import to_start_stop
from numpy.typing import ArrayLike, NDArray

from surrogate.brian_bridge.addresses import Surrogates
from surrogate.brian_bridge.background import Background, Drive, check_rates
from surrogate.brian_bridge.binned import BinnedGroup
from surrogate.brian_bridge.blame import made_by_user, users_frame
from surrogate.brian_bridge.checks import check_whole
from surrogate.brian_bridge.counts import known_values
from surrogate.brian_bridge.gpu import gpu_provider
from surrogate.brian_bridge.models import ModelSource, Population
from surrogate.brian_bridge.rates import input_rates, range_warnings
from surrogate.brian_bridge.recorded import RecordedSpikes, Recording
from surrogate.brian_bridge.standalone import StandaloneStep
from surrogate.brian_bridge.step import RuntimeStep
from surrogate.brian_bridge.subgroup import SurrogateSubgroup, checked_state
from surrogate.brian_bridge.thresholds import Expression, Hysteresis, Stochastic, Threshold
from surrogate.errors import UsageError

__all__ = ["SurrogateNeuron"]

_OUTPUT = "it is what the model computed, and nothing acts back on it; drive the inputs instead"


class SurrogateNeuron(Surrogates, BinnedGroup):
    """N neurons whose model is a trained recurrent network.

    The network takes the spikes that arrived in a bin, one or none per channel, and gives
    the probability of a spike and the soma voltage in that bin:

    .. math:: (z_k, u_k), s_k = f(x_k, s_{k-1}), \\quad p = \\sigma(z_k), \\quad
        v = u_k \\cdot scale + offset

    Spikes arrive through ordinary :class:`~brian2.synapses.synapses.Synapses` onto ``inputs``,
    with ``on_pre="x_post += 1"``, and leave like those of any other group. Bin k holds what arrives
    at k dt <= t < (k + 1) dt, dt being the bin length of the card. The model steps at (k + 1) dt,
    before anything else happens at that time, and its spikes have that time; those of local peaks
    have it a bin later (:attr:`spike_delay`). See docs/brian2.md.

    Parameters
    ----------
    N : int
        Number of neurons.
    model : path, Model, or a sequence of N of them
        A model file; with a sequence each neuron has its own weights.
    threshold : Threshold or str, optional
        When a bin's output is a spike: :class:`~surrogate.brian_bridge.Level`,
        :class:`~surrogate.brian_bridge.RisingEdge`, :class:`~surrogate.brian_bridge.LocalPeak`,
        :class:`~surrogate.brian_bridge.Hysteresis`, :class:`~surrogate.brian_bridge.Stochastic`, or
        a Brian2 expression such as ``"p > 0.4"``. By default the rule of the model card.
    refractory : Quantity, str or False, optional
        As in NeuronGroup; by default that of the model card's spike rule.
    background : Background, optional
        Independent Poisson spikes on every channel, which are drawn within the step.
    recorded : RecordedSpikes, optional
        Recorded spikes on channels, delivered likewise.
    equations : str
        Further variables of the group, such as ``"depth : meter"``, as in NeuronGroup.
    precision : "float32" | "float64"
        Of the model's arithmetic and hidden state.
    device : "cpu" | "cuda"
        Where the model steps. On a GPU its hidden state stays there, the counts of each bin go
        there and the outputs come back; float32 and run time only.
    threads : int
        CPU threads that share the neurons, at run time.
    namespace, dt, clock, order, name
        As in NeuronGroup. The time step is the network's; that of the model comes from the card.

    Attributes
    ----------
    channels : Channels
        Groups of a neuron's input channels, from the model card.
    inputs : NeuronGroup
        The input channels of all neurons, N x input size elements; that of a neuron's channel c is
        ``neuron * input_size + c``. Its integer ``x`` counts the spikes of the current bin.
    v : volt
        Soma voltage in the last bin that ended; before, the card's resting value. Read-only.
    p : 1
        Spike probability in that bin; before, 0. Read-only.
    background_GROUP : Hz
        Rate of each neuron's background on a channel of that group, the mean of the channels; with
        a ``background`` only.
    lost : int
        Spikes that arrived at each neuron on a channel that already had one in that bin. The model
        was trained on at most one and does not get them. Read-only.

    Raises
    ------
    UsageError
        If an argument, the active device, or the time step does not fit the model.
    DataError
        If a model file is missing or damaged.
    """

    devices: ClassVar = {
        RuntimeDevice: "set_device('runtime')",
        CPPStandaloneDevice: "set_device('cpp_standalone')",
    }
    read_only: ClassVar = {"v": _OUTPUT, "p": _OUTPUT, "lost": "it counts arrivals of spikes"}

    def __init__(
        self,
        N: int,
        model: ModelSource | Sequence[ModelSource],
        *,
        threshold: Threshold | str | None = None,
        refractory: Quantity | str | bool | None = None,
        background: Background | None = None,
        recorded: RecordedSpikes | None = None,
        equations: str = "",
        precision: str = "float32",
        device: str = "cpu",
        threads: int = 1,
        namespace: dict[str, Any] | None = None,
        dt: Quantity | None = None,
        clock: Any = None,
        order: int = 0,
        name: str = "surrogateneuron*",
    ) -> None:
        self.population = Population(model, N)
        self._threshold = (
            self.population.threshold() if threshold is None else _threshold(threshold)
        )
        check_whole("threads", threads)
        self.threads = int(threads)
        if precision not in ("float32", "float64"):
            raise UsageError(f"unknown precision {precision!r}: expected 'float32' or 'float64'")
        if device != "cpu":
            gpu_provider(device, np.dtype(precision), self.population.spec)
        self.device = device
        if refractory is None:
            refractory = self.population.refractory_ms() * ms
        card = self.population.card
        self.channels = card.channels
        self._warned_of: set[str] = set()
        #: Names of the logits of the bins before, newest first.
        self.history = [f"_logit_{age}" for age in range(1, self.threshold.history + 1)]
        bin_s = card.dt_ms * 1e-3
        self.drives = background.drives(card.channels, N, bin_s) if background else []
        self.recorded: Recording | None = None
        namespace = dict(namespace or {})
        for drive in self.drives:
            equations += f"\n{drive.variable} : Hz"
            namespace |= drive.namespace
        super().__init__(
            N,
            f"v : volt\np : 1\n{equations}",
            self.threshold.condition,
            refractory=refractory,
            # Products that are the same in every mode are needed, whatever Brian2's default.
            dtype={drive.variable: np.float64 for drive in self.drives},
            namespace=namespace,
            dt=dt,
            clock=clock,
            order=order,
            name=name,
        )
        if recorded is not None:
            index = self.channel(recorded.neuron, recorded.channel, recorded.group)
            self.recorded = recorded.by_bin(index, bin_s)
        self._add_variables(np.dtype(precision))
        step = RuntimeStep if isinstance(self._device, RuntimeDevice) else StandaloneStep
        self._contain_inputs(N * card.channels.size, "x : integer", {"x": step.count_dtype})
        if device != "cpu" and step is StandaloneStep:
            raise UsageError(f"device={device!r} is not available in C++ standalone: leave it out")
        self._contain_step(step, card.dt_ms * ms)
        for drive in self.drives:
            self._contain_rate(drive)

    def _contain_rate(self, drive: Drive) -> None:
        if drive.expression is None:
            setattr(self, drive.variable, drive.rate * Hz)
            return
        # After the step: that is the beginning of the next bin.
        self.run_regularly(
            f"{drive.variable} = {drive.expression}",
            clock=self._step.clock,
            when="before_start",
            order=self.order + 1,
            name=f"{self.name}_{drive.variable}",
        )
        made_by_user(self)

    def _add_variables(self, precision: np.dtype) -> None:
        add, spec = self.variables.add_array, self.population.spec
        add("lost", size=self._N, dtype=np.int64)
        add("_state", size=self._N * spec.state_size, dtype=precision)
        add("_outputs", size=self._N * 2, dtype=precision)
        # Logits and levels are compared in float64, whatever Brian2's default, as SpikeRule does.
        for name in ("_logit", *self.history):
            add(name, size=self._N, dtype=np.float64)
            self.variables[name].set_value(-np.inf)
        if not isinstance(self.threshold, Expression):
            add("_level", size=self._N, dtype=np.float64, constant=True)
            self.variables["_level"].set_value(self.population.levels(self.threshold))
        if isinstance(self.threshold, Hysteresis):
            add("_low_level", size=self._N, dtype=np.float64, constant=True)
            low = self.population.levels(self.threshold, "low_logit")
            self.variables["_low_level"].set_value(low)
        for name in self._rule_variables:
            add(name, size=self._N, dtype=np.float64 if name == "_noise" else bool)
        # Spikes of the network on each channel group, and the steps in which they were counted;
        # then those of background and recording, too.
        for name in ("_arrivals", "_received") if self.driven else ("_arrivals",):
            add(name, size=len(self.channels.groups) + 1, dtype=np.int64)
        self.variables["v"].set_value(self.population.resting_voltage_mv() * 1e-3)
        for name in self.read_only:
            self.variables[name].read_only = True

    @property
    def _rule_variables(self) -> list[str]:
        """What the step works out for the condition of the threshold."""
        if isinstance(self.threshold, Hysteresis):
            return ["_high", "_rose"]
        return ["_noise"] if isinstance(self.threshold, Stochastic) else []

    @property
    def threshold(self) -> Threshold:
        """The rule for spikes, of which the levels can be set (:attr:`level`), but not the kind."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: Any) -> None:
        raise UsageError(
            f"{self.name!r}: the threshold belongs to the group: set its levels, as in "
            f"{self.name}.level = -2.0, or make another group"
        )

    @property
    def driven(self) -> bool:
        """Whether there are spikes of a background or a recording."""
        return bool(self.drives) or self.recorded is not None

    @property
    def step_variables(self) -> list[str]:
        """Names of the variables that the step of the model works on."""
        names = ["v", "p", "lost", "_state", "_outputs", "_logit", "_arrivals"]
        background = [drive.variable for drive in self.drives]
        received = ["_received"] if self.driven else []
        return [*names, *self.history, *self._rule_variables, *background, *received]

    @property
    def spike_delay(self) -> Quantity:
        """How much later a spike has its time than the end of the bin that it belongs to."""
        return self.threshold.delay_bins * self.population.card.dt_ms * ms

    @property
    def written_readonly_vars(self) -> set[Any]:
        """Variables that only code writes; C++ standalone reads their values back after a run."""
        return {self.variables[name] for name in self.read_only}

    @property
    def hidden_state(self) -> NDArray[np.floating]:
        """Hidden state of the model, a copy, [N, state size]: layers in order, h then c.

        Zero at first, as in training. Setting it (one row for all neurons, or one for each) starts
        them elsewhere, such as from :func:`~surrogate.brian_bridge.warm_state`.
        """
        self._step.pull()
        return self.variables["_state"].get_value().reshape(self._N, -1).copy()

    @hidden_state.setter
    def hidden_state(self, value: ArrayLike) -> None:
        shape = (self._N, self.population.spec.state_size)
        self.variables["_state"].set_value(checked_state(self.name, value, shape).ravel())
        self._step.push()

    def before_run(self, run_namespace: Any) -> None:
        for drive in self.drives:
            rates = known_values(self.variables[drive.variable])
            if rates is not None:
                check_rates(self.name, drive.variable, rates)
        super().before_run(run_namespace)

    def _full_state(self) -> dict[str, Any]:
        self._step.pull()
        return super()._full_state()

    def _restore_from_full_state(self, state: dict[str, Any]) -> None:
        super()._restore_from_full_state(state)
        self._warned_of.clear()  # each run of a sweep has its own
        self._step.push()

    @property
    def _computed(self) -> list[str]:
        """Names of the variables that only the step writes, and that the next step reads."""
        return [*self.read_only, "_logit", *self.history, *self._rule_variables]

    def get_states(
        self,
        vars: list[str] | None = None,
        units: bool = True,
        format: str = "dict",
        subexpressions: bool = False,
        read_only_variables: bool = True,
        level: int = 0,
    ) -> Any:
        """As in NeuronGroup; without ``vars`` also all that the model has computed."""
        if vars is None and format != "dict":
            raise UsageError(
                f"{self.name!r}: get_states(format={format!r}) has no place for the hidden state; "
                "leave the format out, or name the variables"
            )
        options = units, format, subexpressions, read_only_variables, level + 1
        states = super().get_states(vars, *options)
        if vars is not None:
            return states
        computed = {name: self.variables[name].get_value().copy() for name in self._computed}
        return computed | states | {"hidden_state": self.hidden_state}

    def set_states(
        self, values: Any, units: bool = True, format: str = "dict", level: int = 0
    ) -> None:
        """As in NeuronGroup; sets all that ``get_states(read_only_variables=False)`` gives."""
        if format == "dict":
            values = dict(values)
            if "hidden_state" in values:
                self.hidden_state = values.pop("hidden_state")
            for name in self._computed:
                if name in values:
                    self.variables[name].set_value(np.asarray(values.pop(name)))
        super().set_states(values, units, format, level + 1)

    @property
    def input_rates(self) -> dict[str, Quantity]:
        """Mean rate of the network's spikes per synapse of each channel group so far.

        Counted on one neuron in each bin, in turn.
        """
        return self._rates(self.variables["_arrivals"].get_value())

    @property
    def background_rates(self) -> dict[str, Quantity]:
        """Mean rate per synapse of background and recorded spikes, counted likewise."""
        network = self.variables["_arrivals"].get_value()
        both = self.variables["_received"].get_value() if self.driven else network
        return self._rates(np.append(both[:-1] - network[:-1], both[-1]))

    def _rates(self, counted: NDArray[np.int64]) -> dict[str, Quantity]:
        found = input_rates(self.population.card, counted)
        return {group: rate * Hz for group, rate in found.items()}

    def warn_about_rates(self) -> None:
        """Warn, once for each channel group, if its rate is outside the training range."""
        both = self.variables["_received" if self.driven else "_arrivals"].get_value()
        for group, message in range_warnings(self.population.card, both):
            if group not in self._warned_of:
                self._warned_of.add(group)
                depth, _ = users_frame()
                warnings.warn(f"{self.name!r}: {message}", RuntimeWarning, stacklevel=depth)

    def __getitem__(self, item: Any) -> SurrogateSubgroup:
        return SurrogateSubgroup(self, *to_start_stop(item, self._N))


def _threshold(given: Threshold | str) -> Threshold:
    if isinstance(given, str):
        return Expression(given)
    if isinstance(given, Threshold):
        return given
    raise UsageError(
        f"threshold {given!r}: expected an expression such as 'p > 0.4', or Level(), RisingEdge(), "
        "LocalPeak(), Hysteresis() or Stochastic(seed)"
    )
