"""Finds mistakes that Brian2 does not notice, before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from brian2 import Clock, Network, NeuronGroup, second
from brian2.core.network import _get_all_objects
from brian2.devices.device import get_device
from brian2.groups.group import Group
from brian2.units.fundamentalunits import have_same_dimensions

from surrogate.brian_bridge.counts import check_counts
from surrogate.brian_bridge.statements import statements, written_code
from surrogate.errors import UsageError

__all__ = [
    "check_device",
    "check_refractory",
    "check_schedule",
    "check_time_step",
    "check_whole",
    "check_writers",
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


def check_whole(name: str, value: Any) -> None:
    """Refuse anything but a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UsageError(f"{name}={value!r}: expected a whole number from 1 on")


def check_refractory(refractory: Any) -> None:
    """Refuse a refractory period without a unit."""
    if not isinstance(refractory, str | bool) and not have_same_dimensions(refractory, second):
        raise UsageError(
            f"refractory={refractory!r}: expected a time such as 2*ms, an expression, or False"
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
            for owner, name, code in written_code(runner):
                block = list(statements(owner, code))
                for statement in block:
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
                if x.is_integer and any(statement.variable is x for statement in block):
                    check_counts(owner, name, block, x, namespace)


def _is_onto(owner: Group, group: NeuronGroup) -> bool:
    target = getattr(owner, "target", None)
    return group.name in (
        getattr(target, "name", None),
        getattr(getattr(target, "source", None), "name", None),
    )
