r"""The recurrent architectures: an object each, with everything that is specific to it.

With :math:`x_t` the input of bin *t*, :math:`W, b` a layer's ``*_ih`` and :math:`U, d` its ``*_hh``
parameters, a layer computes what ``torch.nn.RNN`` (tanh), ``GRU`` and ``LSTM`` document:

.. math::
    \text{rnn: } h_t &= \tanh(W x_t + b + U h_{t-1} + d) \\
    \text{gru: } r, z &= \sigma(W_{r,z} x_t + b_{r,z} + U_{r,z} h_{t-1} + d_{r,z}), \quad
      n = \tanh(W_n x_t + b_n + r \odot (U_n h_{t-1} + d_n)), \quad
      h_t = (1 - z) \odot n + z \odot h_{t-1} \\
    \text{lstm: } i, f, o &= \sigma(\dots), \quad g = \tanh(\dots), \quad
      c_t = f \odot c_{t-1} + i \odot g, \quad h_t = o \odot \tanh(c_t) \\
    \text{elm: } a &= \phi(W x_t + b + U h_{t-1} + d), \quad
      \delta = 1.7159 \tanh(\tfrac23 (V a + e)), \quad
      h_t = \kappa \odot h_{t-1} + 5 (1 - \kappa) \odot \delta

The expressive leaky memory of Spieler et al. (2024): a is its MLP's hidden layer of 2 H units,
:math:`\phi` is relu (``elm``) or silu (``elm_silu``), and :math:`\kappa = e^{-1/\tau}`. There the
MLP sees :math:`\kappa \odot h_{t-1}`; here U contains that factor, which leaves the products of a
layer the same for every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surrogate.errors import UsageError
from surrogate.kernels.torch_layers import (
    ELM_LEAK,
    ELM_SCALE,
    ELM_SLOPE,
    ELMLayer,
    ELMSiluLayer,
    GRULayer,
    LSTMLayer,
    RNNLayer,
)

__all__ = [
    "ARCHITECTURES",
    "GRID_ARCHITECTURES",
    "HIDDEN_SIZES",
    "L5PC_INPUTS",
    "Architecture",
    "OnnxOperator",
    "architecture",
]

State = tuple[Tensor, ...]


class OnnxOperator(NamedTuple):
    """How ONNX computes a layer: https://onnx.ai/onnx/operators/ lists ``RNN``, ``GRU``, ``LSTM``.

    Attributes
    ----------
    name : str
    gate_order : tuple of int
        The gates of ``weight_ih`` in the operator's order.
    attributes : dict
        Attributes of the operator besides ``hidden_size``.
    """

    name: str
    gate_order: tuple[int, ...]
    attributes: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Architecture:
    """A recurrent cell and what its layers need.

    ``name``, ``gates`` and ``step`` are enough: put the object into :data:`ARCHITECTURES`, and
    the reference provider trains, evaluates and steps it.

    Attributes
    ----------
    name : str
    gates : int
        Blocks of H rows in ``weight_ih`` and ``weight_hh``.
    step : callable (from_input, from_hidden, state, ...) -> state
        One layer, one step, differentiably: the specification. ``from_input`` and ``from_hidden``
        [B, gates * H] are ``W x_t + b`` and ``U h_{t-1} + d``, gates in the order of the rows;
        ``state`` is a tuple of tensors [B, H], one for each of ``state_parts``; ``further`` are the
        layer's further parameters, as :func:`surrogate.kernels.branches.effective_weights` gives
        them.
    state_parts : tuple of str
        Names of the state's parts. The first, h, is the layer's output.
    further_shapes : callable (H) -> dict of str to tuple of int
        Names and shapes of the parameters that a layer of H units has besides ``W, b, U, d``. One
        that is called ``log_tau`` [H] has the logarithms of the units' time constants in bins.
    hidden_sizes : tuple of int
        The stack used where no sizes are given.
    output_size : float
        How large h can become. Initial weights on it are divided by this.
    keep_gate, input_gate : int or None
        The gates whose bias sets the time constant of a unit's memory: kept is
        sigmoid(keep_gate), let in sigmoid(input_gate). None where there is no such gate.
    module : type or None
        The class of torch.nn that holds the parameters of a layer; None: plain parameters.
    torch_layer : type or None
        The autograd function of the provider "torch", which does all steps of a layer at once.
    cpp_code : int or None
        The case of ``cells_of`` in ``kernels/cpu/cells.h``; None: no C++ kernels.
    triton : str or None
        Where its :class:`surrogate.kernels.triton.cells.Cell` is, ``"module:name"``: that module
        imports Triton. None: no Triton kernels.
    onnx : OnnxOperator or None
        None: ONNX has no such layer.
    colour, marker : str
        In figures, as matplotlib takes them.
    """

    name: str
    gates: int
    step: Callable[..., State]
    state_parts: tuple[str, ...] = ("h",)
    further_shapes: Callable[[int], dict[str, tuple[int, ...]]] = lambda _: {}
    hidden_sizes: tuple[int, ...] = (32, 16, 2)
    output_size: float = 1.0
    keep_gate: int | None = None
    input_gate: int | None = None
    module: Callable[..., nn.Module] | None = None
    torch_layer: type[torch.autograd.Function] | None = None
    cpp_code: int | None = None
    triton: str | None = None
    onnx: OnnxOperator | None = None
    colour: str = "#777777"
    marker: str = "D"

    def parameter_shapes(self, inputs: int, size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a layer's parameters: torch.nn's four, and further ones."""
        rows = self.gates * size
        return {
            "weight_ih_l0": (rows, inputs),
            "weight_hh_l0": (rows, size),
            "bias_ih_l0": (rows,),
            "bias_hh_l0": (rows,),
            **self.further_shapes(size),
        }

    def make_layer(self, inputs: int, size: int) -> nn.Module:
        """A module with a layer's parameters."""
        if self.module is not None:
            return self.module(inputs, size, batch_first=True)
        layer = nn.Module()
        for name, shape in self.parameter_shapes(inputs, size).items():
            layer.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        return layer


def _step_rnn(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    return (torch.tanh(from_input + from_hidden),)


def _step_gru(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    (h,) = state
    r_in, z_in, n_in = from_input.chunk(3, 1)
    r_hid, z_hid, n_hid = from_hidden.chunk(3, 1)
    r = torch.sigmoid(r_in + r_hid)
    z = torch.sigmoid(z_in + z_hid)
    n = torch.tanh(n_in + r * n_hid)
    return ((1 - z) * n + z * h,)


def _step_lstm(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    _, c = state
    i, f, g, o = (from_input + from_hidden).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _step_elm(
    from_input: Tensor,
    from_hidden: Tensor,
    state: State,
    weight_out: Tensor,
    bias_out: Tensor,
    kept: Tensor,
    *,
    activation: Callable[[Tensor], Tensor],
) -> State:
    (h,) = state
    change = activation(from_input + from_hidden) @ weight_out.t() + bias_out
    return (kept * h + ELM_LEAK * (1 - kept) * ELM_SCALE * torch.tanh(ELM_SLOPE * change),)


def _elm(
    name: str,
    activation: Callable[[Tensor], Tensor],
    torch_layer: type[torch.autograd.Function],
    **others: Any,
) -> Architecture:
    return Architecture(
        name,
        gates=2,  # the rows of the hidden layer, two for each unit
        step=partial(_step_elm, activation=activation),
        torch_layer=torch_layer,
        further_shapes=lambda size: {
            "weight_out": (size, 2 * size),
            "bias_out": (size,),
            "log_tau": (size,),
        },
        hidden_sizes=(20, 2),
        output_size=10.0,  # 5 x 1.7159, about
        **others,
    )


#: The six sizes of the blog's grid of 216 runs; five are published, 128-32-2 stands in for one.
HIDDEN_SIZES = (
    (32, 16, 2),
    (128, 32, 2),
    (256, 64, 2),
    (128, 64, 64, 64, 32, 2),
    (256, 128, 64, 32, 16, 2),
    (512, 256, 128, 64, 32, 2),
)

#: The architectures of that grid.
GRID_ARCHITECTURES = ("rnn", "gru", "lstm")

#: Input channels of the L5 pyramidal cell in the bundled data, on which speed is measured.
L5PC_INPUTS = 1278

#: By name. Default sizes are the best of the blog's grid; its GRU sizes are unpublished.
ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        Architecture(
            "rnn",
            gates=1,
            step=_step_rnn,
            module=nn.RNN,
            torch_layer=RNNLayer,
            cpp_code=0,
            triton="surrogate.kernels.triton.cells:RNN",
            onnx=OnnxOperator("RNN", (0,)),
            colour="#D55E00",
            marker="o",
        ),
        Architecture(
            "gru",
            gates=3,
            step=_step_gru,
            hidden_sizes=(256, 64, 2),
            keep_gate=1,
            module=nn.GRU,
            torch_layer=GRULayer,
            cpp_code=1,
            triton="surrogate.kernels.triton.cells:GRU",
            # ONNX: z, r, h; torch.nn: r, z, n, with the reset gate after the recurrent product.
            onnx=OnnxOperator("GRU", (1, 0, 2), {"linear_before_reset": 1}),
            colour="#009E73",
            marker="s",
        ),
        Architecture(
            "lstm",
            gates=4,
            step=_step_lstm,
            state_parts=("h", "c"),
            hidden_sizes=(256, 64, 2),
            keep_gate=1,
            input_gate=0,
            module=nn.LSTM,
            torch_layer=LSTMLayer,
            cpp_code=2,
            triton="surrogate.kernels.triton.cells:LSTM",
            onnx=OnnxOperator("LSTM", (0, 3, 1, 2)),  # i, o, f, c; torch.nn: i, f, g, o
            colour="#0072B2",
            marker="^",
        ),
        _elm("elm", torch.relu, torch_layer=ELMLayer, cpp_code=3, colour="#CC79A7", marker="v"),
        _elm(
            "elm_silu", F.silu, torch_layer=ELMSiluLayer, cpp_code=4, colour="#E69F00", marker="<"
        ),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture called ``name``.

    Raises
    ------
    UsageError
        If there is none; the message names those that there are.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"unknown arch {name!r}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
