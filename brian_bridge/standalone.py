"""The step of a surrogate in C++ standalone: the kernels' header, compiled into the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from brian2 import Function, get_device, second
from brian2.codegen.generators.cpp_generator import c_data_type
from brian2.core.variables import Variable, Variables
from brian2.groups.group import CodeRunner
from numpy.typing import NDArray

from surrogate.brian_bridge.rates import MIN_BINS
from surrogate.brian_bridge.stepped import SteppedGroup
from surrogate.brian_bridge.thresholds import Hysteresis, Stochastic
from surrogate.errors import UsageError
from surrogate.kernels.cpu.sequences import lacks

__all__ = ["StandaloneStep"]

_HEADER = Path(__file__).resolve().with_name("standalone.h")

# The model is made at its first step: weights never change, hidden state is in Brian2's arrays.
_CODE = Template("""
static double $function(const double t, const double stepped_at)
{
    static const int hidden_sizes[] = {$hidden_sizes};
    static const int bounds[] = {$bounds};
    static const int branch_sizes[] = {$branch_sizes}, branch_channels[] = {$branch_channels};
    static const surrogate::BranchPattern branches = {$branches, branch_sizes, branch_channels,
                                                      $saturate};
    static const surrogate::Population<$real> &population =
        surrogate::Population<$real>::of(_namespace$weights, $cell, $linear_head, $input_size,
                                         $layers, hidden_sizes, $models, branches);
    const int64_t timestep = $timestep[0];
    if (timestep < $first_step[0]) return stepped_at;
    surrogate::sample_arrivals($counts, $neurons, $groups, bounds, timestep, $arrivals);
    $background
    population.step($neurons, $counts, $state, $outputs, $lost);
    $shifts
    surrogate::read_out($neurons, $outputs, $scale, $offset, $logit, $p, $v);
    $decide
    return t;
}
""")

_BACKGROUND = Template("""{
        const surrogate::PoissonChannels channels = {${seed}ULL, $stream, $first, $size, $scale,
                                                     _namespace$tables};
        surrogate::add_background(channels, timestep, $neurons, $rate, $inputs, $counts);
    }""")
_RECORDED = Template("""surrogate::add_recorded(_namespace$index, _namespace$begins,
                            $bins, $repeats, timestep, $counts);""")
_SAMPLE_BACKGROUND = Template(
    "surrogate::sample_arrivals($counts, $neurons, $groups, bounds, timestep, $received);"
)

# For the end of main(), where the arrays still exist.
_RATE_CHECK = Template("""
if ($arrivals[$groups] >= $min_bins) {
    const double rate = $arrivals[$index] / ($arrivals[$groups] * $dt_ms * 1e-3 * $synapses);
    if (rate < $low || rate > $high)
        std::cerr << "Warning: '$name': $group synapses received " << rate
                  << " Hz on average, the model was trained on $low to $high Hz: "
                  << "what it computes there is untested" << std::endl;
}
""")


# Brian2 ignores one number for all of an array of 16-bit integers.
_RUN_ARGUMENT = Template("""
for (auto arg = args.begin(); arg != args.end();) {
    const bool found = arg->rfind("$name=", 0) == 0;
    if (found && arg->find_first_not_of("0123456789", $start) == std::string::npos) {
        std::fill_n($counts, $size, int16_t(std::atoi(arg->c_str() + $start)));
        arg = args.erase(arg);
    } else ++arg;
}
""")


class StandaloneStep(CodeRunner):
    """The step at the end of a bin, as in :class:`surrogate.brian_bridge.step.RuntimeStep`.

    Brian2 calls a function once for all neurons if its result is assigned to a scalar variable.
    """

    #: Of the spike counts: half the memory to search at each step. The maximum of a bin is 32,767.
    count_dtype = np.int16

    def __init__(self, neuron: SteppedGroup, **schedule: Any) -> None:
        spec = neuron.population.spec
        if lacking := lacks(spec):
            raise UsageError(
                f"{neuron.name}: {lacking} has no C++ kernels, which C++ standalone needs; "
                "run it with Brian2's runtime device"
            )
        function = f"_step_{neuron.name}"
        super().__init__(
            neuron,
            "stateupdate",
            code=f"_stepped_at = {function}(t, _stepped_at)",
            # Tells Brian2 which variables may change.
            needed_variables=[*neuron.step_variables],
            **schedule,
        )
        self.variables = Variables(self)
        self.variables.add_reference("_counts", neuron.inputs, "x")
        self.needed_variables.append("_counts")
        self.variables._add_variable(function, self._function(function, neuron))
        for check in _rate_checks(neuron):
            get_device().insert_code("before_end", check)

    def before_run(self, run_namespace: Any) -> None:
        super().before_run(run_namespace)
        if not get_device().run_args_applied:
            inputs = self.group.inputs
            name = f"{inputs.name}.x"
            code = _RUN_ARGUMENT.substitute(
                name=name,
                start=len(name) + 1,
                counts=_array(inputs.variables["x"]),
                size=len(inputs),
            )
            get_device().insert_code("before_network_run", code)

    def pull(self) -> None:
        """Does nothing: the hidden state is already in Brian2's arrays."""

    push = pull

    def _function(self, name: str, neuron: SteppedGroup) -> Function:
        function = Function(
            _not_callable, arg_units=[second, second], return_unit=second, stateless=False
        )
        # Brian2 writes the namespace to binary files and expects its names to be unique.
        weights = f"{name}_weights"
        timestep = self.clock.variables["timestep"]
        values = _code_values(neuron, timestep)
        background, tables = _background(name, neuron, values)
        code = _CODE.substitute(values, function=name, weights=weights, background=background)
        dtype = neuron.variables["_state"].dtype
        function.implementations.add_implementation(
            "cpp",
            code,
            namespace={weights: neuron.population.flat_weights(dtype)} | tables,
            compiler_kwds={"headers": [f'"{_HEADER.as_posix()}"']},
        )
        return function


def _not_callable(t: Any, stepped_at: Any) -> Any:
    raise NotImplementedError("the step of a surrogate in C++ standalone has no Python form")


def _array(variable: Variable) -> str:
    return f"brian::{get_device().get_array_name(variable)}"


def _rate_checks(neuron: SteppedGroup) -> Iterator[str]:
    card = neuron.population.card
    groups = card.channels.groups
    for index, group in enumerate(groups):
        if group.name in card.input_rate_hz:
            low, high = card.input_rate_hz[group.name]
            yield _RATE_CHECK.substitute(
                name=neuron.name,
                group=group.name,
                index=index,
                groups=len(groups),
                synapses=group.size,
                arrivals=_array(neuron.variables["_received" if neuron.driven else "_arrivals"]),
                min_bins=MIN_BINS,
                dt_ms=card.dt_ms,
                low=f"{low:.3g}",
                high=f"{high:.3g}",
            )


def _background(
    function: str, neuron: SteppedGroup, values: Mapping[str, Any]
) -> tuple[str, dict[str, NDArray[np.int64]]]:
    """Code for background and recorded spikes, and the tables it looks up, by name."""
    lines, tables = [], {}
    for drive in neuron.drives:
        channels, table = drive.channels, f"{function}_{drive.variable}"
        tables[table] = channels.tables()
        own = {
            "seed": channels.seed,
            "stream": channels.stream,
            "first": channels.first,
            "size": len(channels.share),
            "scale": repr(channels.scale),
            "tables": table,
            "rate": _array(neuron.variables[drive.variable]),
            "inputs": values["input_size"],
        }
        lines.append(_BACKGROUND.substitute(values, **own))
    if neuron.recorded is not None:
        index, begins = f"{function}_recorded", f"{function}_bins"
        # Brian2 has no empty arrays.
        tables |= {index: np.append(neuron.recorded.elements, 0), begins: neuron.recorded.begins}
        own = {
            "index": index,
            "begins": begins,
            "bins": len(neuron.recorded.begins) - 1,
            "repeats": str(neuron.recorded.repeats).lower(),
        }
        lines.append(_RECORDED.substitute(values, **own))
    if lines:
        received = _array(neuron.variables["_received"])
        lines.append(_SAMPLE_BACKGROUND.substitute(values, received=received))
    return "\n    ".join(lines), tables


def _code_values(neuron: SteppedGroup, timestep: Variable) -> dict[str, Any]:
    """C++ names and literals for the template."""
    population, variables = neuron.population, neuron.variables
    card, spec = population.card, population.spec
    logits = [_array(variables[name]) for name in ("_logit", *neuron.history)]
    shifts = [
        f"std::copy({newer}, {newer} + {len(neuron)}, {older});"
        for newer, older in zip(logits[-2::-1], logits[:0:-1], strict=True)
    ]
    threshold, decide = neuron.threshold, ""
    sizes, channels = ((), ()) if spec.branches is None else spec.branches.flat
    saturate = spec.branches is not None and spec.branches.saturation == "tanh"
    if isinstance(threshold, Stochastic):
        noise = _array(variables["_noise"])
        decide = f"surrogate::logistic({threshold.seed}ULL, timestep, {len(neuron)}, {noise});"
    if isinstance(threshold, Hysteresis):
        names = ("_logit", "_level", "_low_level", "_high", "_rose")
        arrays = ", ".join(_array(variables[name]) for name in names)
        decide = f"surrogate::find_rises({len(neuron)}, {arrays});"
    return {
        "real": c_data_type(variables["_state"].dtype),
        "hidden_sizes": ", ".join(map(str, spec.hidden_sizes)),
        "layers": len(spec.hidden_sizes),
        "cell": spec.architecture.cpp_code,
        "branches": len(sizes),
        "branch_sizes": ", ".join(map(str, sizes or (0,))),  # C++ has no empty arrays
        "branch_channels": ", ".join(map(str, channels or (0,))),
        "saturate": str(saturate).lower(),
        "linear_head": str(spec.head == "linear").lower(),
        "input_size": spec.input_size,
        "bounds": ", ".join(map(str, card.channels.bounds)),
        "groups": len(card.channels.groups),
        "models": len(population.models),
        "neurons": len(neuron),
        "scale": repr(float(spec.voltage_scale)),
        "offset": repr(float(spec.voltage_offset)),
        "timestep": _array(timestep),
        "counts": _array(neuron.inputs.variables["x"]),
        "shifts": "\n    ".join(shifts),
        "decide": decide,
        **{
            name: _array(variables[variable])
            for name, variable in {
                "first_step": "_first_step",
                "arrivals": "_arrivals",
                "state": "_state",
                "outputs": "_outputs",
                "logit": "_logit",
                "lost": "lost",
                "p": "p",
                "v": "v",
            }.items()
        },
    }
