"""Mistakes that Brian2 cannot see, found before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from brian2 import Clock, Network, NeuronGroup, PoissonInput, second
from brian2.core.network import _get_all_objects
from brian2.devices.device import get_device
from brian2.groups.group import CodeRunner, Group
from brian2.parsing.bast import brian_ast
from brian2.parsing.statements import parse_statement
from brian2.synapses.synapses import SynapticPathway
from brian2.utils.stringtools import get_identifiers

from surrogate.errors import UsageError

__all__ = [
    "check_device",
    "check_schedule",
    "check_time_step",
    "check_writers",
    "networks_of",
]

_EPSILON = 1e-4  # of a time step, as in Brian2's own comparisons of times


def check_device(supported: Mapping[type, str], what: str) -> None:
    """Refuse a device of Brian2 on which ``what`` would do nothing without a word.

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
    """Refuse a group's time step of which the step of its model is no whole multiple."""
    ratio = step.dt_ / network.dt_
    if round(ratio) < 1 or abs(ratio - round(ratio)) > _EPSILON:
        raise UsageError(
            f"{name!r}: its model steps every {step.dt_ * second}, which is no whole multiple of "
            f"the time step of {network.dt_ * second}; choose one that divides it, such as "
            "defaultclock.dt = 0.1*ms"
        )


def check_schedule(group: Group) -> None:
    """Refuse a schedule in which spikes arrive before a bin has been closed."""
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
    """Refuse code that writes what the model computes, or fractions of spikes to ``inputs``.

    Parameters
    ----------
    group, inputs : NeuronGroup
        The surrogates and their input channels.
    read_only : mapping of str to str
        Variables of ``group`` that nothing may write, and why.
    namespace : mapping
        Of the run: values of external names.

    Raises
    ------
    UsageError
        Naming the object, the statement and the cure.
    """
    for network in networks_of(group):
        for runner in _objects(network):
            for owner, name, code in _written_code(runner):
                for line in _statements(code):
                    target, _, expression, _ = parse_statement(line)
                    variable = owner.variables.get(target)
                    for protected, reason in read_only.items():
                        if variable is group.variables[protected]:
                            raise UsageError(f"{name!r} writes {target} in {line!r}: {reason}")
                    if variable is inputs.variables["x"] and variable.is_integer:
                        _check_whole(owner, name, line, expression, namespace)
                    if variable is None and target == "x_post" and _is_onto(owner, group):
                        raise UsageError(
                            f"{name!r} targets {group.name!r}, which takes its input by channel: "
                            f"connect to its inputs, as in Synapses(source, {group.name}.inputs, "
                            'on_pre="x_post += 1")'
                        )


def _written_code(runner: Any) -> Iterator[tuple[Group, str, str]]:
    """The group in whose context an object runs code of the user, the object's name, the code."""
    if isinstance(runner, SynapticPathway):
        # From Brian2 2.11 on it may be an object that holds the code.
        yield runner.synapses, runner.synapses.name, getattr(runner.code, "code", runner.code)
    elif isinstance(runner, PoissonInput):
        yield runner.group, runner.name, f"{runner.target_var} += {runner.weight}"
    elif isinstance(runner, CodeRunner) and runner.template == "stateupdate":
        yield runner.group, runner.name, runner.abstract_code


def _statements(code: str) -> Iterator[str]:
    for line in code.replace(";", "\n").splitlines():
        if statement := line.partition("#")[0].strip():
            yield statement


def _check_whole(
    owner: Group, name: str, line: str, expression: str, namespace: Mapping[str, Any]
) -> None:
    names = get_identifiers(expression)
    try:
        variables = owner.resolve_all(names, namespace, user_identifiers=set())
    except KeyError:  # Brian2 will name the unknown identifier
        return
    if brian_ast(expression, variables).dtype == "float":
        raise UsageError(
            f"{name!r} adds a fraction in {line!r}: x counts spikes of a channel; add a whole "
            "number, such as x_post += 1"
        )


def _is_onto(owner: Group, group: NeuronGroup) -> bool:
    target = getattr(owner, "target", None)
    return group.name in (
        getattr(target, "name", None),
        getattr(getattr(target, "source", None), "name", None),
    )
