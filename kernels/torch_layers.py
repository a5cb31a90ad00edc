"""Differentiable layers in torch operations, for any device: events in, hidden states out.

Autograd would add a gradient of the size of the weights at each of 1000 steps. These functions
keep the activated gates instead, go back through the steps in place, and compute each weight
gradient with one matrix product over all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ELM_LEAK",
    "ELM_SCALE",
    "ELM_SLOPE",
    "BranchTraces",
    "ELMLayer",
    "ELMSiluLayer",
    "EventProjection",
    "GRULayer",
    "LSTMLayer",
    "RNNLayer",
]

# Of the change of an ELM's memory: its size, and LeCun's tanh, scale * tanh(slope * x).
ELM_LEAK = 5.0
ELM_SCALE = 1.7159
ELM_SLOPE = 2 / 3

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward
_relu_backward = partial(torch.ops.aten.threshold_backward, threshold=0)
_silu_backward = torch.ops.aten.silu_backward


class EventProjection(torch.autograd.Function):
    """``W x`` for 0/1 inputs given as events: the sum of the active channels' columns of ``W``.

    ``(weight [G, I], channel int [E], row_ptr int [R + 1]) -> [R, G]``. The gradient sums, for each
    channel, the output gradients of the rows it was active in; each sum has one fixed order, so
    two runs agree bit for bit.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, channel: Tensor, row_ptr: Tensor) -> Tensor:
        ctx.save_for_backward(channel, row_ptr)
        ctx.input_size = weight.shape[1]
        return F.embedding_bag(
            channel, weight.t().contiguous(), row_ptr, mode="sum", include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        channel, row_ptr = ctx.saved_tensors
        counts = row_ptr.diff()
        rows = torch.repeat_interleave(
            torch.arange(counts.numel(), dtype=torch.int32, device=counts.device), counts
        )
        by_channel = torch.argsort(channel, stable=True)
        channel_ptr = torch.zeros(ctx.input_size + 1, dtype=torch.int32, device=counts.device)
        channel_ptr[1:] = torch.bincount(channel, minlength=ctx.input_size).cumsum(0)
        grad = F.embedding_bag(
            rows[by_channel],
            grads[0].contiguous(),
            channel_ptr,
            mode="sum",
            include_last_offset=True,
        )
        return grad.t(), None, None


class BranchTraces(torch.autograd.Function):
    """The traces of branches, ``(inputs [T, B, N], kept [N], s0 [B, N]) -> s [T, B, N]``.

    ``s_t = kept s_{t-1} + inputs_t``.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kept: Tensor, s0: Tensor) -> Tensor:
        traces = inputs.new_empty(len(inputs) + 1, *s0.shape)
        traces[0] = s0
        s = traces.unbind(0)
        for t, arrived in enumerate(inputs.unbind(0)):
            torch.addcmul(arrived, s[t], kept, out=s[t + 1])
        ctx.save_for_backward(kept, traces)
        return traces[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, traces = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        ds = grad.unbind(0)
        for t in reversed(range(len(ds) - 1)):
            ds[t].addcmul_(ds[t + 1], kept)
        return grad, (grad * traces[:-1]).sum((0, 1)), ds[0] * kept


def _weight_gradients(grad_gates: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight_hh and bias_hh from those of the gates [T, B, G] and h [T + 1, B, H]."""
    flat = grad_gates.flatten(0, 1)
    return flat.t() @ hidden[:-1].flatten(0, 1), flat.sum(0)


class RNNLayer(torch.autograd.Function):
    """``(from_input [T, B, H], weight_hh, bias_hh, h0 [B, H]) -> h [T, B, H]``."""

    @staticmethod
    def forward(
        ctx: Any, from_input: Tensor, weight_hh: Tensor, bias_hh: Tensor, h0: Tensor
    ) -> Tensor:
        steps = from_input.shape[0]
        hidden = from_input.new_empty(steps + 1, *h0.shape)
        hidden[0] = h0
        torch.add(from_input, bias_hh, out=hidden[1:])
        h, transposed = hidden.unbind(0), weight_hh.t()
        for t in range(steps):
            h[t + 1].addmm_(h[t], transposed).tanh_()
        ctx.save_for_backward(weight_hh, hidden)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        weight_hh, hidden = ctx.saved_tensors
        grad_pre = grads[0].clone(memory_format=torch.contiguous_format)
        pre, h = grad_pre.unbind(0), hidden.unbind(0)
        for t in reversed(range(len(pre))):
            if t + 1 < len(pre):
                pre[t].addmm_(pre[t + 1], weight_hh)
            _tanh_backward(pre[t], h[t + 1], grad_input=pre[t])
        return grad_pre, *_weight_gradients(grad_pre, hidden), pre[0] @ weight_hh


class GRULayer(torch.autograd.Function):
    """``(from_input [T, B, 3H], weight_hh, bias_hh, h0 [B, H]) -> h [T, B, H]``."""

    @staticmethod
    def forward(
        ctx: Any, from_input: Tensor, weight_hh: Tensor, bias_hh: Tensor, h0: Tensor
    ) -> Tensor:
        steps, size = from_input.shape[0], h0.shape[1]
        hidden = from_input.new_empty(steps + 1, *h0.shape)
        hidden[0] = h0
        gates = from_input.clone(memory_format=torch.contiguous_format)  # becomes r, z, n
        candidate = from_input.new_empty(steps, *h0.shape)  # U_n h + d_n
        from_hidden = from_input.new_empty(from_input.shape[1:])
        h, transposed = hidden.unbind(0), weight_hh.t()
        for t, (gate, inner) in enumerate(zip(gates.unbind(0), candidate.unbind(0), strict=True)):
            torch.addmm(bias_hh, h[t], transposed, out=from_hidden)
            rz, n = gate[:, : 2 * size], gate[:, 2 * size :]
            rz.add_(from_hidden[:, : 2 * size]).sigmoid_()
            inner.copy_(from_hidden[:, 2 * size :])
            n.addcmul_(rz[:, :size], inner).tanh_()
            torch.lerp(n, h[t], rz[:, size:], out=h[t + 1])
        ctx.save_for_backward(weight_hh, hidden, gates, candidate)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        weight_hh, hidden, gates, candidate = ctx.saved_tensors
        size = weight_hh.shape[1]
        grad_input = torch.empty_like(gates)
        grad_hidden = torch.empty_like(gates)
        dh = torch.zeros_like(hidden[0])
        inputs, hiddens = grad_input.unbind(0), grad_hidden.unbind(0)
        upstream, gate, inner = grads[0].unbind(0), gates.unbind(0), candidate.unbind(0)
        h = hidden.unbind(0)
        for t in reversed(range(len(gate))):
            dh += upstream[t]
            r, z, n = gate[t].chunk(3, 1)
            dr, dz, dn = inputs[t].chunk(3, 1)
            torch.mul(dh, h[t] - n, out=dz)
            torch.mul(dh, 1 - z, out=dn)
            _tanh_backward(dn, n, grad_input=dn)
            torch.mul(dn, inner[t], out=dr)
            rz, drz = gate[t][:, : 2 * size], inputs[t][:, : 2 * size]
            _sigmoid_backward(drz, rz, grad_input=drz)
            hiddens[t][:, : 2 * size] = drz
            torch.mul(dn, r, out=hiddens[t][:, 2 * size :])
            dh = torch.addmm(dh * z, hiddens[t], weight_hh)
        return grad_input, *_weight_gradients(grad_hidden, hidden), dh


class LSTMLayer(torch.autograd.Function):
    """``(from_input [T, B, 4H], weight_hh, bias_hh, h0, c0 [B, H]) -> h [T, B, H], c_T [B, H]``."""

    @staticmethod
    def forward(
        ctx: Any, from_input: Tensor, weight_hh: Tensor, bias_hh: Tensor, h0: Tensor, c0: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, size = from_input.shape[0], h0.shape[1]
        hidden, memory = (from_input.new_empty(steps + 1, *h0.shape) for _ in range(2))
        hidden[0], memory[0] = h0, c0
        gates = from_input + bias_hh  # becomes i, f, g, o
        squashed = from_input.new_empty(steps, *h0.shape)  # tanh(c)
        h, c, tanh_c = hidden.unbind(0), memory.unbind(0), squashed.unbind(0)
        transposed = weight_hh.t()
        for t, gate in enumerate(gates.unbind(0)):
            gate.addmm_(h[t], transposed)
            gate[:, : 2 * size].sigmoid_()
            gate[:, 2 * size : 3 * size].tanh_()
            gate[:, 3 * size :].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
            torch.tanh(c[t + 1], out=tanh_c[t])
            torch.mul(o, tanh_c[t], out=h[t + 1])
        ctx.save_for_backward(weight_hh, hidden, memory, gates, squashed)
        return hidden[1:], memory[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        weight_hh, hidden, memory, gates, squashed = ctx.saved_tensors
        size = weight_hh.shape[1]
        grad_gates = torch.empty_like(gates)
        dh, dc = torch.zeros_like(hidden[0]), grads[1].clone()
        dgates, gate, upstream = grad_gates.unbind(0), gates.unbind(0), grads[0].unbind(0)
        c, tanh_c = memory.unbind(0), squashed.unbind(0)
        through_c = torch.empty_like(dc)
        for t in reversed(range(len(gate))):
            dh += upstream[t]
            i, f, g, o = gate[t].chunk(4, 1)
            di, df, dg, do = dgates[t].chunk(4, 1)
            torch.mul(dh, tanh_c[t], out=do)
            torch.mul(dh, o, out=through_c)
            _tanh_backward(through_c, tanh_c[t], grad_input=through_c)
            dc += through_c
            torch.mul(dc, g, out=di)
            torch.mul(dc, c[t], out=df)
            torch.mul(dc, i, out=dg)
            for part in (slice(0, 2 * size), slice(3 * size, 4 * size)):
                _sigmoid_backward(
                    dgates[t][:, part], gate[t][:, part], grad_input=dgates[t][:, part]
                )
            _tanh_backward(dg, g, grad_input=dg)
            dc *= f
            torch.mm(dgates[t], weight_hh, out=dh)
        return grad_gates, *_weight_gradients(grad_gates, hidden), dh, dc


def _elm_forward(
    activation: Callable[[Tensor], Tensor],
    ctx: Any,
    from_input: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    weight_out: Tensor,
    bias_out: Tensor,
    kept: Tensor,
    h0: Tensor,
) -> Tensor:
    hidden = from_input.new_empty(len(from_input) + 1, *h0.shape)
    hidden[0] = h0
    inner = from_input + bias_hh  # before the activation
    change = torch.empty_like(hidden[1:])  # after tanh
    rate = ELM_LEAK * (1 - kept) * ELM_SCALE
    into, out, bias = weight_hh.t(), (ELM_SLOPE * weight_out).t(), ELM_SLOPE * bias_out
    h = hidden.unbind(0)
    for t, (a, delta) in enumerate(zip(inner.unbind(0), change.unbind(0), strict=True)):
        a.addmm_(h[t], into)
        torch.addmm(bias, activation(a), out, out=delta).tanh_()
        torch.mul(h[t], kept, out=h[t + 1]).addcmul_(delta, rate)
    ctx.save_for_backward(weight_hh, weight_out, kept, hidden, inner, change)
    return hidden[1:]


def _elm_backward(
    activation: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor, Tensor], Tensor],
    ctx: Any,
    upstream: Tensor,
) -> tuple[Tensor, ...]:
    weight_hh, weight_out, kept, hidden, inner, change = ctx.saved_tensors
    grad_inner, grad_change = torch.empty_like(inner), torch.empty_like(change)
    grad_hidden = upstream.clone(memory_format=torch.contiguous_format)
    rate = ELM_LEAK * (1 - kept) * ELM_SCALE * ELM_SLOPE
    dh, da, dc = grad_hidden.unbind(0), grad_inner.unbind(0), grad_change.unbind(0)
    a, delta = inner.unbind(0), change.unbind(0)
    below = torch.zeros_like(dh[0])
    for t in reversed(range(len(dh))):
        dh[t].add_(below)
        _tanh_backward(dh[t] * rate, delta[t], grad_input=dc[t])
        da[t].copy_(derivative(dc[t] @ weight_out, a[t]))
        below = torch.addmm(dh[t] * kept, da[t], weight_hh)
    flat = grad_change.flatten(0, 1)
    grad_kept = grad_hidden * (hidden[:-1] - ELM_LEAK * ELM_SCALE * change)
    return (
        grad_inner,
        *_weight_gradients(grad_inner, hidden),
        flat.t() @ activation(inner).flatten(0, 1),
        flat.sum(0),
        grad_kept.sum((0, 1)),
        below,
    )


class ELMLayer(torch.autograd.Function):
    """``(from_input [T, B, 2H], weight_hh, bias_hh, weight_out, bias_out, kept [H], h0 [B, H]) ->
    h [T, B, H]`` with relu."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        return _elm_forward(torch.relu, ctx, *arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return _elm_backward(torch.relu, _relu_backward, ctx, grads[0])


class ELMSiluLayer(torch.autograd.Function):
    """:class:`ELMLayer` with silu."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        return _elm_forward(F.silu, ctx, *arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return _elm_backward(F.silu, _silu_backward, ctx, grads[0])
