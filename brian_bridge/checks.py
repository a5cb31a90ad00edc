"""Finds mistakes that Brian2 does not notice, before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from brian2 import Clock, Network, NeuronGroup, PoissonInput, second
from brian2.core.network import _get_all_objects
from brian2.core.variables import ArrayVariable, AuxiliaryVariable, Variable
from brian2.devices.device import RuntimeDevice, get_device
from brian2.groups.group import CodeRunner, Group
from brian2.groups.neurongroup import Resetter
from brian2.parsing.bast import brian_ast
from brian2.parsing.statements import parse_statement
from brian2.synapses.synapses import SummedVariableUpdater, SynapticPathway
from brian2.utils.stringtools import get_identifiers
from numpy.typing import NDArray

from surrogate.errors import UsageError

__all__ = [
    "check_device",
    "check_schedule",
    "check_time_step",
    "check_writers",
    "known_values",
    "networks_of",
]

_EPSILON = 1e-4  # of a time step, as in Brian2's own comparisons of times


def check_device(supported: Mapping[type, str], what: str) -> None:
    """Refuse a device of Brian2 on which ``what`` would silently do nothing.

    Raises
    ------
    UsageError
        If the active device's class is not exactly one of ``supported``: a class derived from
        one of them may generate another language.
    """
    device = get_device()
    if type(device) not in supported:
        raise UsageError(
            f"{what} does not run on Brian2's device {type(device).__name__}; "
            f"choose {' or '.join(supported.values())}"
        )


def known_values(variable: ArrayVariable) -> NDArray[Any] | None:
    """The values of an array; None where only the compiled program will know them."""
    if isinstance(get_device(), RuntimeDevice):
        return variable.get_value()
    return get_device().array_cache.get(variable)


def networks_of(group: Group) -> list[Network]:
    """The networks that ``group`` is part of; the magic one only while it runs."""
    networks = [reference() for reference in list(Network.__instances__())]
    return [
        network
        for network in networks
        if network is not None and any(member is group for member in _objects(network))
    ]


def _objects(network: Network) -> set[Any]:
    return _get_all_objects(getattr(network, "objects", ()))


def check_time_step(step: Clock, network: Clock, name: str) -> None:
    """Refuse a group's time step that does not divide the step of its model."""
    ratio = step.dt_ / network.dt_
    if round(ratio) < 1 or abs(ratio - round(ratio)) > _EPSILON:
        raise UsageError(
            f"{name!r}: its model steps every {step.dt_ * second}, which is no whole multiple of "
            f"the time step of {network.dt_ * second}; choose one that divides it, such as "
            "defaultclock.dt = 0.1*ms"
        )


def check_schedule(group: Group) -> None:
    """Refuse a schedule in which spikes can arrive before the step that ends a bin."""
    for network in networks_of(group):
        if network.schedule[0] != "start":
            raise UsageError(
                f"{group.name!r}: the network's schedule begins with {network.schedule[0]!r}; its "
                "model steps in 'before_start', which must come first, so begin with 'start'"
            )


def check_writers(
    group: NeuronGroup,
    inputs: NeuronGroup,
    read_only: Mapping[str, str],
    namespace: Mapping[str, Any],
) -> None:
    """Refuse code that writes outputs of the model, or anything but whole spikes to ``inputs``.

    Parameters
    ----------
    group, inputs : NeuronGroup
        The surrogates and their input channels.
    read_only : mapping of str to str
        Variables of ``group`` that code must not write, and why.
    namespace : mapping
        Of the run: values of external names.

    Raises
    ------
    UsageError
        Naming the object, the statement and the cure.
    """
    x = inputs.variables["x"]
    for network in networks_of(group):
        for runner in _objects(network):
            for owner, name, code in _written_code(runner):
                statements = list(_statements(owner, code))
                for statement in statements:
                    for protected, reason in read_only.items():
                        if statement.variable is group.variables[protected]:
                            raise UsageError(
                                f"{name!r} writes {statement.target} in {statement.line!r}: "
                                f"{reason}"
                            )
                    if statement.to_unknown("x_post") and _is_onto(owner, group):
                        raise UsageError(
                            f"{name!r} targets {group.name!r}, which takes its input by channel: "
                            f"connect to its inputs, as in Synapses(source, {group.name}.inputs, "
                            'on_pre="x_post += 1")'
                        )
                if x.is_integer and any(statement.variable is x for statement in statements):
                    _check_counts(owner, name, statements, x, namespace)


class _Statement(NamedTuple):
    line: str
    target: str
    operation: str
    expression: str
    #: What it writes to; None for a local variable of the code, or one that does not exist.
    variable: Variable | None

    def to_unknown(self, target: str) -> bool:
        return self.variable is None and self.target == target


def _written_code(runner: Any) -> Iterator[tuple[Group, str, str]]:
    """The group in whose context an object runs code of the user, the object's name, the code."""
    if isinstance(runner, SynapticPathway):
        # From Brian2 2.11 on it may be an object that holds the code.
        yield runner.synapses, runner.synapses.name, getattr(runner.code, "code", runner.code)
    elif isinstance(runner, PoissonInput):
        yield runner.group, runner.name, f"{runner.target_var} += {runner.weight}"
    elif isinstance(runner, SummedVariableUpdater):
        code = f"{runner.target_varname} = {runner.expression.code}"
        yield runner.group, runner.group.name, code
    elif isinstance(runner, Resetter):
        code = runner.group.event_codes[runner.event]
        if isinstance(code, str):  # Brian2 will refuse another type
            yield runner.group, runner.name, code
    elif isinstance(runner, CodeRunner) and runner.template == "stateupdate":
        yield runner.group, runner.name, runner.abstract_code


def _statements(owner: Group, code: str) -> Iterator[_Statement]:
    for line in code.replace(";", "\n").splitlines():
        if text := line.partition("#")[0].strip():
            target, operation, expression, _ = parse_statement(text)
            variable = owner.variables.get(target)
            yield _Statement(text, target, operation, expression, variable)


def _check_counts(
    owner: Group,
    name: str,
    statements: list[_Statement],
    x: Variable,
    namespace: Mapping[str, Any],
) -> None:
    """Refuse a block of code that makes ``x`` other than a count of spikes."""
    # Local variables may hold a fraction; Brian2 resolves them only inside the block.
    local: dict[str, AuxiliaryVariable] = {}
    for statement in statements:
        target, variable = statement.target, statement.variable
        if variable is not None and variable is not x:
            continue
        names = get_identifiers(statement.expression)
        try:
            variables = owner.resolve_all(
                names, namespace, user_identifiers=set(), additional_variables=local
            )
        except KeyError:  # Brian2 will name the unknown identifier
            return
        fraction = brian_ast(statement.expression, variables).dtype == "float"
        if variable is None:
            fraction |= statement.operation == "/=" or (
                target in local and not local[target].is_integer
            )
            local[target] = AuxiliaryVariable(target, dtype=float if fraction else int)
        elif statement.operation not in ("=", "+="):
            raise UsageError(
                f"{name!r} writes {statement.line!r}: x counts the spikes of a channel in the "
                "current bin, which cannot be taken back; add to it, such as x_post += 1"
            )
        elif fraction:
            raise UsageError(
                f"{name!r} adds a fraction in {statement.line!r}: x counts spikes of a channel; "
                "add a whole number, such as x_post += 1 or x_post += int(w)"
            )


def _is_onto(owner: Group, group: NeuronGroup) -> bool:
    target = getattr(owner, "target", None)
    return group.name in (
        getattr(target, "name", None),
        getattr(getattr(target, "source", None), "name", None),
    )
