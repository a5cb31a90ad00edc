"""``x`` of ``inputs`` counts spikes: code may add whole numbers, Python may set them."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from brian2.core.namespace import get_local_namespace
from brian2.core.variables import (
    ArrayVariable,
    AuxiliaryVariable,
    Constant,
    Variable,
    VariableView,
)
from brian2.devices.device import RuntimeDevice, get_device
from brian2.groups.group import Group
from brian2.parsing.bast import brian_ast
from brian2.utils.stringtools import get_identifiers
from numpy.typing import NDArray

from surrogate.brian_bridge.statements import Statement
from surrogate.errors import UsageError

__all__ = ["Counts", "check_counts", "known_values"]

_LINEAR = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.UAdd, ast.USub),
)


class Counts(ArrayVariable):
    """An array of counts, whose views refuse fractions, which NumPy would truncate."""

    def get_addressable_value(self, name: str, group: Group) -> VariableView:
        return _View(name, self, group, None)

    def get_addressable_value_with_unit(self, name: str, group: Group) -> VariableView:
        return _View(name, self, group, self.dim)


class _View(VariableView):
    def set_item(self, item: Any, value: Any, level: int = 0, namespace: Any = None) -> None:
        if namespace is None:
            namespace = get_local_namespace(level=level + 1)
        if isinstance(value, str):
            variables = self.group.resolve_all(get_identifiers(value), namespace)
            whole = brian_ast(value, variables).dtype != "float"
        else:
            given = np.asarray(value)
            whole = bool(((given >= 0) & (given == np.floor(given))).all())
        if not whole:
            raise UsageError(
                f"{self.group_name}.{self.name} = {value!r}: it counts the spikes of the current "
                "bin; expected whole numbers from 0 on"
            )
        super().set_item(item, value, level + 1, namespace)


def known_values(variable: ArrayVariable) -> NDArray[Any] | None:
    """The values of an array; None where only the compiled program will know them."""
    if isinstance(get_device(), RuntimeDevice):
        return variable.get_value()
    return get_device().array_cache.get(variable)


def check_counts(
    owner: Group,
    name: str,
    block: Sequence[Statement],
    x: Variable,
    namespace: Mapping[str, Any],
) -> None:
    """Refuse a block of code that makes ``x`` other than a count of spikes that have arrived."""
    # Local variables may hold a fraction; Brian2 resolves them only inside the block.
    local: dict[str, AuxiliaryVariable] = {}
    for statement in block:
        target, variable = statement.target, statement.variable
        if variable is not None and variable is not x:
            continue
        added = statement.expression if variable is None else _added(statement, name)
        names = get_identifiers(added)
        try:
            variables = owner.resolve_all(
                names, namespace, user_identifiers=set(), additional_variables=local
            )
        except KeyError:  # Brian2 will name the unknown identifier
            return
        fraction = brian_ast(added, variables).dtype == "float"
        if variable is None:
            fraction |= statement.operation == "/=" or (
                target in local and not local[target].is_integer
            )
            local[target] = AuxiliaryVariable(target, dtype=float if fraction else int)
        elif fraction:
            raise UsageError(
                f"{name!r} adds a fraction or a float in {statement.line!r}: a channel has spikes, "
                "not a strength; add a whole number, such as x_post += 1, and connect what is "
                "stronger to more channels"
            )
        elif (lowest := _lowest(added, variables)) is not None and lowest < 0:
            raise UsageError(
                f"{name!r} adds {lowest} in {statement.line!r}: spikes that have arrived cannot be "
                "taken back; add 0 or more"
            )


def _added(statement: Statement, name: str) -> str:
    """What a statement adds to the count that it writes."""
    expression = statement.expression
    if statement.operation == "+=":
        return expression
    node = ast.parse(expression, mode="eval").body
    if statement.operation == "=" and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [ast.unparse(node.left), ast.unparse(node.right)]
        if statement.target in sides:
            sides.remove(statement.target)
            return sides[0]
    raise UsageError(
        f"{name!r} writes {statement.line!r}: x counts the spikes of a channel in the current bin, "
        "which cannot be taken back; add to it, such as x_post += 1"
    )


def _lowest(expression: str, variables: Mapping[str, Any]) -> float | None:
    """The lowest value of a sum of products; None of anything else, or where it is not known."""
    tree = ast.parse(expression, mode="eval")
    if not all(isinstance(node, _LINEAR) for node in ast.walk(tree)):
        return None
    ends = []
    for variable in variables.values():
        known = isinstance(variable, Constant | ArrayVariable)
        values = np.asarray(known_values(variable) if known else None)
        if not known or values.dtype == object or not values.size:
            return None
        ends.append((values.min().item(), values.max().item()))
    code = compile(tree, "<code>", "eval")
    corners = itertools.product(*ends)
    return min(eval(code, dict(zip(variables, corner, strict=True))) for corner in corners)
