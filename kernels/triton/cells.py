"""One step of a cell and its derivative, as device functions on tiles of any shape.

A cell keeps four values per unit for the way back (the vanilla RNN one), its *slots*, and its
gradient has the same slots: ``i, f, g, o`` for the LSTM and ``U_n h + d_n, r, z, n`` for the GRU,
whose candidate sees the state through a gate and therefore needs two. With the slots in this order
the rows of ``weight_ih`` belong to the last three and those of ``weight_hh`` to the first three,
rolled by one.
"""

# mypy: allow-untyped-defs, disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["SLOTS", "cell", "cell_backward"]

#: Values kept per unit and step.
SLOTS = {"rnn": 1, "gru": 4, "lstm": 4}


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    # exp of a number that is never positive cannot overflow.
    shrunk = tl.exp(-2 * tl.abs(x))
    size = (1 - shrunk) / (1 + shrunk)
    return tl.where(x < 0, -size, size)


@triton.jit
def cell(ARCH: tl.constexpr, from_input, from_hidden, bias, h, c):
    """One layer, one step; the equations are those of ``surrogate.kernels.architectures``.

    ``from_input`` and ``from_hidden`` are tuples by gate, without biases; ``bias`` is one by slot.
    Returns the slots, the new h and the new c (the old one where a cell has none).
    """
    if ARCH == "rnn":
        h = _tanh(from_input[0] + from_hidden[0] + bias[0])
        slots = (h,)
    elif ARCH == "gru":
        inner = from_hidden[2] + bias[0]
        r = _sigmoid(from_input[0] + from_hidden[0] + bias[1])
        z = _sigmoid(from_input[1] + from_hidden[1] + bias[2])
        n = _tanh(from_input[2] + bias[3] + r * inner)
        h = n + z * (h - n)
        slots = (inner, r, z, n)
    else:
        i = _sigmoid(from_input[0] + from_hidden[0] + bias[0])
        f = _sigmoid(from_input[1] + from_hidden[1] + bias[1])
        g = _tanh(from_input[2] + from_hidden[2] + bias[2])
        o = _sigmoid(from_input[3] + from_hidden[3] + bias[3])
        c = f * c + i * g
        h = o * _tanh(c)
        slots = (i, f, g, o)
    return slots, h, c


@triton.jit
def cell_backward(ARCH: tl.constexpr, slots, h_before, c_before, c, dh, dc):
    """Gradients of the slots' pre-activations, and what of dh and dc passes by them.

    ``slots`` is what :func:`cell` returned, ``dh`` and ``dc`` the whole gradients of the state
    after the step. The gradient of h before the step is the returned one plus the products of the
    slots' gradients with ``weight_hh``.
    """
    if ARCH == "rnn":
        grads = (dh * (1 - slots[0] * slots[0]),)
        dh = tl.zeros_like(dh)
    elif ARCH == "gru":
        inner, r, z, n = slots
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (h_before - n) * z * (1 - z)
        dr = dn * inner * r * (1 - r)
        grads = (dn * r, dr, dz, dn)
        dh = dh * z
    else:
        i, f, g, o = slots
        squashed = _tanh(c)
        do = dh * squashed * o * (1 - o)
        dc += dh * o * (1 - squashed * squashed)
        grads = (dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), do)
        dh = tl.zeros_like(dh)
        dc = dc * f
    return grads, dh, dc
