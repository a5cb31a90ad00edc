"""The description of a recurrent stack, which providers, files and simulators use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogate.errors import UsageError
from surrogate.kernels.architectures import Architecture, architecture
from surrogate.kernels.branches import Branches

__all__ = ["HEADS", "MAX_HIDDEN_SIZE", "StackSpec", "join_sizes", "parse_sizes"]

HEADS = ("recurrent", "linear")
MAX_LAYERS = 64
MAX_HIDDEN_SIZE = 512
MAX_INPUT_SIZE = 2**15  # SpikeEvents keeps channels in int16


def join_sizes(hidden_sizes: Iterable[int]) -> str:
    """Hidden sizes as they are written in tables: ``(256, 64, 2)`` is ``"256-64-2"``."""
    return "-".join(map(str, hidden_sizes))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read what :func:`join_sizes` writes.

    Raises
    ------
    UsageError
        If a part is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise UsageError(
            f"hidden sizes {text!r}: expected whole numbers joined by dashes, such as 256-64-2"
        ) from None


@dataclass(frozen=True)
class StackSpec:
    """A stack of recurrent layers of one architecture that ends in (spike logit, scaled voltage).

    Attributes
    ----------
    arch : str
        A key of :data:`surrogate.kernels.ARCHITECTURES`: rnn, gru, lstm, elm or elm_silu.
    hidden_sizes : tuple of int
        Units of each layer, input side first. The last is 2: the outputs.
    input_size : int
        Number of input channels.
    head : "recurrent" | "linear"
        What the last two units are: a recurrent layer, whose outputs are its hidden state, or a
        linear layer on the hidden state of the layer before.
    voltage_scale, voltage_offset : float
        Soma voltage in mV = output 1 x ``voltage_scale`` + ``voltage_offset``.
    branches : Branches or None
        The input stage: leaky traces on branches, or None: the first layer sees every channel. A
        mapping of a Branches' fields becomes one.

    Raises
    ------
    UsageError
        If a field has a value outside its range; the message names value and range.
    """

    arch: str
    hidden_sizes: tuple[int, ...]
    input_size: int
    head: str = "recurrent"
    voltage_scale: float = 100.0
    voltage_offset: float = 0.0
    branches: Branches | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(map(_without_numpy, self.hidden_sizes)))
        object.__setattr__(self, "input_size", _without_numpy(self.input_size))
        if isinstance(self.branches, Mapping):
            object.__setattr__(self, "branches", Branches(**self.branches))
        architecture(self.arch)
        if self.head not in HEADS:
            raise UsageError(f"unknown head {self.head!r}: expected recurrent or linear")
        sizes = self.hidden_sizes
        if len(sizes) > MAX_LAYERS:
            raise UsageError(f"{len(sizes)} layers: expected at most {MAX_LAYERS}")
        if not sizes or any(
            type(size) is not int or not 1 <= size <= MAX_HIDDEN_SIZE for size in sizes
        ):
            raise UsageError(
                f"hidden sizes {sizes!r}: expected whole numbers from 1 to {MAX_HIDDEN_SIZE}, "
                "such as 256-64-2"
            )
        if sizes[-1] != 2:
            raise UsageError(
                f"hidden sizes {self.sizes_text} end in {sizes[-1]}: the last must be 2, "
                "the spike logit and the soma voltage"
            )
        if self.head == "linear" and len(sizes) < 2:
            raise UsageError("a linear head needs a recurrent layer before it, such as 32-2")
        if type(self.input_size) is not int or not 1 <= self.input_size <= MAX_INPUT_SIZE:
            raise UsageError(f"input size {self.input_size}: expected 1 to {MAX_INPUT_SIZE}")
        if self.branches is not None and len(self.branches.signs) != self.input_size:
            raise UsageError(
                f"branches of {len(self.branches.signs)} channels, the stack has "
                f"{self.input_size}: expected equally many"
            )
        if not (math.isfinite(self.voltage_scale) and self.voltage_scale > 0):
            raise UsageError(f"voltage scale {self.voltage_scale}: expected a positive number")
        if not math.isfinite(self.voltage_offset):
            raise UsageError(f"voltage offset {self.voltage_offset}: expected a finite number")

    @property
    def architecture(self) -> Architecture:
        """The architecture of the layers."""
        return architecture(self.arch)

    @property
    def gates(self) -> int:
        """Rows of ``weight_ih`` per unit: 1 (rnn), 3 (gru), 4 (lstm) or 2 (elm)."""
        return self.architecture.gates

    @property
    def sizes_text(self) -> str:
        """Hidden sizes as tables have them: ``"256-64-2"``."""
        return join_sizes(self.hidden_sizes)

    @property
    def name(self) -> str:
        """``"lstm 256-64-2"``, or ``"gru 24-2, 45 branches"``."""
        stage = "" if self.branches is None else f", {self.branches.count} branches"
        return f"{self.arch} {self.sizes_text}{stage}"

    @property
    def recurrent_sizes(self) -> tuple[int, ...]:
        """Units of the recurrent layers: without the output layer if that is linear."""
        return self.hidden_sizes if self.head == "recurrent" else self.hidden_sizes[:-1]

    @property
    def layer_inputs(self) -> tuple[int, ...]:
        """Inputs of each recurrent layer."""
        first = self.input_size if self.branches is None else self.branches.count
        return (first, *self.recurrent_sizes[:-1])

    @property
    def trace_slice(self) -> slice:
        """Where the branches' traces lie in a state row: before the layers."""
        return slice(0, 0 if self.branches is None else self.branches.count)

    @property
    def state_slices(self) -> list[dict[str, slice]]:
        """Where each part of a layer's state lies in a state row: layers in order, h then c."""
        slices, start = [], self.trace_slice.stop
        for size in self.recurrent_sizes:
            layer = {}
            for name in self.architecture.state_parts:
                layer[name] = slice(start, start + size)
                start += size
            slices.append(layer)
        return slices

    @property
    def state_size(self) -> int:
        """Floats of recurrent state per neuron."""
        of_layers = sum(self.recurrent_sizes) * len(self.architecture.state_parts)
        return self.trace_slice.stop + of_layers

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical parameter names and shapes, in order: branches, layers (torch.nn's), head."""
        shapes = {} if self.branches is None else self.branches.parameter_shapes()
        for index, sizes in enumerate(zip(self.layer_inputs, self.recurrent_sizes, strict=True)):
            for name, shape in self.architecture.parameter_shapes(*sizes).items():
                shapes[f"layers.{index}.{name}"] = shape
        if self.head == "linear":
            shapes["head.weight"] = (2, self.recurrent_sizes[-1])
            shapes["head.bias"] = (2,)
        return shapes

    @property
    def parameter_count(self) -> int:
        """Trainable parameters of the stack."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())


def _without_numpy(value: Any) -> Any:
    """A whole number of NumPy as Python's, for files and C; other values as they are."""
    return int(value) if isinstance(value, np.integer) else value
