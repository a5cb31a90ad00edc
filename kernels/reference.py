r"""The executable specification of a recurrent stack: plain PyTorch, one step after another.

Every faster provider must agree with this one, in values and in gradients. It runs in float32 or
float64, and every operation is differentiated by autograd.

With :math:`x_t` the 0/1 input of bin *t*, :math:`W, b` a layer's ``*_ih`` and :math:`U, d` its
``*_hh`` parameters, a layer computes what ``torch.nn.RNN`` (tanh), ``GRU`` and ``LSTM`` document:

.. math::
    \text{rnn: } h_t &= \tanh(W x_t + b + U h_{t-1} + d) \\
    \text{gru: } r, z &= \sigma(W_{r,z} x_t + b_{r,z} + U_{r,z} h_{t-1} + d_{r,z}), \quad
      n = \tanh(W_n x_t + b_n + r \odot (U_n h_{t-1} + d_n)), \quad
      h_t = (1 - z) \odot n + z \odot h_{t-1} \\
    \text{lstm: } i, f, o &= \sigma(\dots), \quad g = \tanh(\dots), \quad
      c_t = f \odot c_{t-1} + i \odot g, \quad h_t = o \odot \tanh(c_t)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["cell", "run_stack_reference"]


def cell(
    arch: str, from_input: Tensor, from_hidden: Tensor, h: Tensor, c: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One layer, one step.

    Parameters
    ----------
    arch : "rnn" | "gru" | "lstm"
    from_input, from_hidden : Tensor [B, gates * H]
        ``W x_t + b`` and ``U h_{t-1} + d``, gates in torch.nn's order.
    h, c : Tensor [B, H]
        State after the step before; ``c`` only for the LSTM.

    Returns
    -------
    (Tensor [B, H], Tensor [B, H] or None)
        State after this step.
    """
    if arch == "rnn":
        return torch.tanh(from_input + from_hidden), None
    if arch == "gru":
        r_in, z_in, n_in = from_input.chunk(3, 1)
        r_hid, z_hid, n_hid = from_hidden.chunk(3, 1)
        r = torch.sigmoid(r_in + r_hid)
        z = torch.sigmoid(z_in + z_hid)
        n = torch.tanh(n_in + r * n_hid)
        return (1 - z) * n + z * h, None
    assert c is not None
    i, f, g, o = (from_input + from_hidden).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def run_stack_reference(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`."""
    dense = events.to_dense(spec.input_size, state.dtype)
    slices = spec.state_slices
    hidden = [state[:, at["h"]] for at in slices]
    memory = [state[:, at["c"]] if "c" in at else None for at in slices]
    outputs = []
    for t in range(events.steps):
        x = dense[:, t]
        for layer in range(len(slices)):
            name = f"layers.{layer}."
            from_input = x @ weights[name + "weight_ih_l0"].t() + weights[name + "bias_ih_l0"]
            from_hidden = (
                hidden[layer] @ weights[name + "weight_hh_l0"].t() + weights[name + "bias_hh_l0"]
            )
            hidden[layer], memory[layer] = cell(
                spec.arch, from_input, from_hidden, hidden[layer], memory[layer]
            )
            x = hidden[layer]
        if spec.head == "linear":
            x = x @ weights["head.weight"].t() + weights["head.bias"]
        outputs.append(x)
    parts = [part for pair in zip(hidden, memory, strict=True) for part in pair if part is not None]
    return torch.stack(outputs, 1), torch.cat(parts, 1)
