"""A cell that the package does not have: its step, and the Triton functions that make it fast.

The minimal gated unit (Zhou et al. 2016), its reset as in torch's GRU: f = sigmoid(W_f x + b_f +
U_f h + d_f), n = tanh(W_n x + b_n + f * (U_n h + d_n)), h = (1 - f) * h + f * n.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl

from surrogate.kernels import Architecture
from surrogate.kernels.triton.cells import Cell, tanh

__all__ = ["CELL", "MINIMAL_GATED"]


def _step(from_input, from_hidden, state):
    f = torch.sigmoid(from_input.chunk(2, 1)[0] + from_hidden.chunk(2, 1)[0])
    n = torch.tanh(from_input.chunk(2, 1)[1] + f * from_hidden.chunk(2, 1)[1])
    return ((1 - f) * state[0] + f * n,)


@triton.jit
def _forward(from_input, from_hidden, bias, h, c):
    inner = from_hidden[1] + bias[0]
    f = tl.sigmoid(from_input[0] + from_hidden[0] + bias[1])
    n = tanh(from_input[1] + bias[2] + f * inner)
    return (inner, f, n), h + f * (n - h), c


@triton.jit
def _backward(slots, h, c, c_after, dh, dc):
    inner, f, n = slots
    dn = dh * f * (1 - n * n)
    df = (dh * (n - h) + dn * inner) * f * (1 - f)
    return (dn * f, df, dn), dh * (1 - f), dc


CELL = Cell(_forward, _backward, ih_slots=(1, 2), hh_slots=(1, 0))
MINIMAL_GATED = Architecture("minimal", gates=2, step=_step, triton=f"{__name__}:CELL")
