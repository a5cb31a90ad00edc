"""The cells of the Triton kernels, an object each.

A cell's equations are those of ``surrogate.kernels.architectures``. Its two device functions work
on tiles of any shape. The forward one keeps a few values per unit for the backward pass, its
*slots*; the gradient has the same slots. The GRU has four, ``U_n h + d_n, r, z, n``: a gate scales
the state's part of its candidate, so the parts of ``weight_ih`` and ``weight_hh`` stay separate.
"""

# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import functools
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from surrogate.kernels.architectures import ARCHITECTURES

__all__ = ["GRU", "LSTM", "RNN", "Cell", "cell_of", "tanh"]


@dataclass(frozen=True)
class Cell:
    """The parts of an architecture that the Triton kernels need.

    Attributes
    ----------
    forward : triton.jit function (from_input, from_hidden, bias, h, c) -> slots, h, c
        One step. ``from_input`` and ``from_hidden`` are tuples by gate, without biases; ``bias`` is
        one by slot. Returns a tuple of the slots, the new h and the new c; a cell without c returns
        the one it got. Unless :attr:`apart`, a caller may pass the sum of both products as
        ``from_hidden`` and zeros as ``from_input``.
    backward : triton.jit function (slots, h, c, c_after, dh, dc) -> grads, dh, dc
        The step back. ``slots`` is what ``forward`` returned, ``h`` and ``c`` are the state before
        the step, ``dh`` and ``dc`` the whole gradients of the state after it. Returns the gradients
        of the slots before activation, and those of h and c before the step, without the products
        of ``grads`` with ``weight_hh``, which the caller adds to the first.
    ih_slots, hh_slots : tuple of int
        For each gate, in the order of the rows, the slot whose gradient is that of the gate's rows
        of ``weight_ih`` and ``weight_hh``. Each is a run of slots without gaps, in any order.
    """

    forward: Any
    backward: Any
    ih_slots: tuple[int, ...]
    hh_slots: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Values kept per unit and step."""
        return 1 + max(self.ih_slots + self.hh_slots)

    @property
    def apart(self) -> bool:
        """Whether some gate needs the parts of the input and of the state separately."""
        return self.ih_slots != self.hh_slots

    def bias_by_slot(self, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
        """[..., gates, H] of both kinds to [..., slots, H]."""
        parts: list[list[Tensor]] = [[] for _ in range(self.slots)]
        for bias, slots in ((bias_ih, self.ih_slots), (bias_hh, self.hh_slots)):
            for gate, slot in enumerate(slots):
                parts[slot].append(bias[..., gate, :])
        return torch.stack([functools.reduce(torch.add, terms) for terms in parts], -2)


def cell_of(arch: str) -> Cell:
    """The cell of ``arch``, a key of :data:`surrogate.kernels.ARCHITECTURES`."""
    place = ARCHITECTURES[arch].triton
    if place is None:
        raise ValueError(f"no Triton kernels for {arch}")
    cell: Cell = resolve_name(place)
    return cell


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
    # exp of a number that is never positive cannot overflow.
    shrunk = tl.exp(-2 * tl.abs(x))
    size = (1 - shrunk) / (1 + shrunk)
    return tl.where(x < 0, -size, size)


@triton.jit
def _rnn_forward(from_input, from_hidden, bias, h, c):
    h = tanh(from_input[0] + from_hidden[0] + bias[0])
    return (h,), h, c


@triton.jit
def _rnn_backward(slots, h, c, c_after, dh, dc):
    return (dh * (1 - slots[0] * slots[0]),), tl.zeros_like(dh), dc


RNN = Cell(_rnn_forward, _rnn_backward, ih_slots=(0,), hh_slots=(0,))


@triton.jit
def _gru_forward(from_input, from_hidden, bias, h, c):
    inner = from_hidden[2] + bias[0]
    r = _sigmoid(from_input[0] + from_hidden[0] + bias[1])
    z = _sigmoid(from_input[1] + from_hidden[1] + bias[2])
    n = tanh(from_input[2] + bias[3] + r * inner)
    h = n + z * (h - n)
    return (inner, r, z, n), h, c


@triton.jit
def _gru_backward(slots, h, c, c_after, dh, dc):
    inner, r, z, n = slots
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * inner * r * (1 - r)
    return (dn * r, dr, dz, dn), dh * z, dc


GRU = Cell(_gru_forward, _gru_backward, ih_slots=(1, 2, 3), hh_slots=(1, 2, 0))


@triton.jit
def _lstm_forward(from_input, from_hidden, bias, h, c):
    i = _sigmoid(from_input[0] + from_hidden[0] + bias[0])
    f = _sigmoid(from_input[1] + from_hidden[1] + bias[1])
    g = tanh(from_input[2] + from_hidden[2] + bias[2])
    o = _sigmoid(from_input[3] + from_hidden[3] + bias[3])
    c = f * c + i * g
    h = o * tanh(c)
    return (i, f, g, o), h, c


@triton.jit
def _lstm_backward(slots, h, c, c_after, dh, dc):
    i, f, g, o = slots
    squashed = tanh(c_after)
    do = dh * squashed * o * (1 - o)
    dc += dh * o * (1 - squashed * squashed)
    grads = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), do)
    return grads, tl.zeros_like(dh), dc * f


LSTM = Cell(_lstm_forward, _lstm_backward, ih_slots=(0, 1, 2, 3), hh_slots=(0, 1, 2, 3))
