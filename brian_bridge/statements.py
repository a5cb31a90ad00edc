"""What the code of a Brian2 object writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from brian2 import PoissonInput
from brian2.core.variables import Variable
from brian2.groups.group import CodeRunner, Group
from brian2.groups.neurongroup import Resetter
from brian2.parsing.statements import parse_statement
from brian2.synapses.synapses import SummedVariableUpdater, SynapticPathway

__all__ = ["Statement", "statements", "written_code"]


class Statement(NamedTuple):
    """One assignment."""

    line: str
    target: str
    operation: str
    expression: str
    #: What it writes to; None for a local variable of the code, or one that does not exist.
    variable: Variable | None

    def to_unknown(self, target: str) -> bool:
        return self.variable is None and self.target == target


def written_code(runner: Any) -> Iterator[tuple[Group, str, str]]:
    """The group in whose context an object runs code of the user, the object's name, the code."""
    if isinstance(runner, SynapticPathway):
        # From Brian2 2.11 on it may be an object that holds the code.
        yield runner.synapses, runner.synapses.name, getattr(runner.code, "code", runner.code)
    elif isinstance(runner, PoissonInput):
        weight = float(runner.weight)
        # Brian2 adds the weight times a whole number, which any target takes for a count.
        told = int(weight) if weight.is_integer() else weight
        yield runner.group, runner.name, f"{runner.target_var} += {told}"
    elif isinstance(runner, SummedVariableUpdater):
        code = f"{runner.target_varname} = {runner.expression.code}"
        yield runner.group, runner.group.name, code
    elif isinstance(runner, Resetter):
        code = runner.group.event_codes[runner.event]
        if isinstance(code, str):  # Brian2 will refuse another type
            yield runner.group, runner.name, code
    elif isinstance(runner, CodeRunner) and runner.template == "stateupdate":
        yield runner.group, runner.name, runner.abstract_code


def statements(owner: Group, code: str) -> Iterator[Statement]:
    """The statements of a block of code."""
    for line in code.replace(";", "\n").splitlines():
        if text := line.partition("#")[0].strip():
            target, operation, expression, _ = parse_statement(text)
            variable = owner.variables.get(target)
            yield Statement(text, target, operation, expression, variable)
