"""Whole sequences by the C++ kernels, differentiably, for ``run_stack``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from surrogate.kernels import cpu
from surrogate.kernels.branches import effective_weights
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["lacks", "make_stack", "run_stack_cpu", "shares"]


def lacks(spec: StackSpec) -> str | None:
    """What of the stack the kernels do not compute; None if they compute all of it."""
    return spec.arch if spec.architecture.cpp_code is None else None


def make_stack(spec: StackSpec, dtype: torch.dtype, models: int = 1) -> Any:
    """An empty stack of the C++ kernels.

    Raises
    ------
    ValueError
        If the kernels are not available or do not have the architecture, or ``dtype`` is neither
        float32 nor float64.
    """
    module = cpu.load()
    if module is None:
        raise ValueError(
            f"the C++ kernels are {cpu.why_not()}; use provider 'torch', or install a C++ compiler "
            "and reinstall surrogate-neuron"
        )
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the C++ kernels compute in float32 or float64, not in {dtype}")
    if lacking := lacks(spec):
        raise ValueError(f"there are no C++ kernels for {lacking}; use provider 'reference'")
    return module.Stack(
        spec.architecture.cpp_code,
        spec.head == "linear",
        spec.input_size,
        spec.hidden_sizes,
        dtype == torch.float64,
        models,
        *((), ()) if spec.branches is None else spec.branches.flat,
        spec.branches is not None and spec.branches.saturation == "tanh",
    )


class _Workshop:
    """Stacks that are not in use.

    They keep their working memory, hundreds of megabytes for wide layers: getting it anew for each
    batch would take more time.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[Any]] = {}

    def take(self, spec: StackSpec, dtype: torch.dtype) -> Any:
        """A stack, used before or new; the caller sets its weights."""
        try:  # not first a look: a teacher may take the last one meanwhile, in its own thread
            return self._free[spec, dtype].pop()
        except LookupError:
            return make_stack(spec, dtype)

    def give_back(self, spec: StackSpec, dtype: torch.dtype, stacks: list[Any]) -> None:
        if (spec, dtype) not in self._free and len(self._free) > 1:
            self._free.clear()  # one network is trained at a time, perhaps beside its teacher
        free = self._free.setdefault((spec, dtype), [])
        # A loop often holds the last batch's graph while it makes the next: two for each thread.
        room = 2 * torch.get_num_threads() - len(free)
        free.extend(stacks[: max(room, 0)])


_workshop = _Workshop()


class _Loan:
    """The stacks of one forward pass, given back when autograd deletes this object."""

    stacks: list[Any] | tuple[()] = ()

    def __init__(self, spec: StackSpec, dtype: torch.dtype, count: int) -> None:
        self.spec, self.dtype = spec, dtype
        self.stacks = [_workshop.take(spec, dtype) for _ in range(count)]

    def __del__(self) -> None:
        if self.stacks:  # a loan that failed has none
            _workshop.give_back(self.spec, self.dtype, list(self.stacks))


class _RunStack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spec: StackSpec, events: SpikeEvents, keep: bool, state: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        state = _plain(state)
        weights = tuple(map(_plain, weights))
        channel, row_ptr = events.channel.contiguous(), events.row_ptr.contiguous()
        parts = shares(events.batch, torch.get_num_threads())
        loan = _Loan(spec, state.dtype, len(parts))
        outputs = state.new_empty(events.batch, events.steps, 2)
        final = torch.empty_like(state)

        def run(index: int) -> None:
            stack, (first, last) = loan.stacks[index], parts[index]
            stack.set_weights(tuple(weight.data_ptr() for weight in weights), 0)
            stack.forward(
                last - first,
                events.steps,
                channel.numel(),
                channel.data_ptr(),
                row_ptr[first * events.steps :].data_ptr(),
                state[first:].data_ptr(),
                outputs[first:].data_ptr(),
                final[first:].data_ptr(),
                keep,
            )

        _each(run, len(parts))
        if keep:
            ctx.save_for_backward(channel, row_ptr, *weights)
            ctx.loan, ctx.parts, ctx.steps = loan, parts, events.steps
        return outputs, final

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the C++ kernels give first derivatives alone: for create_graph=True use "
                "provider='reference'"
            )
        channel, row_ptr, *weights = ctx.saved_tensors
        grad_outputs, grad_final = map(_plain, grads)
        grad_state = torch.empty_like(grad_final)
        partial = [[torch.empty_like(weight) for weight in weights] for _ in ctx.parts]

        def run(index: int) -> None:
            first = ctx.parts[index][0]
            ctx.loan.stacks[index].backward(
                channel.numel(),
                channel.data_ptr(),
                row_ptr[first * ctx.steps :].data_ptr(),
                tuple(weight.data_ptr() for weight in weights),
                grad_outputs[first:].data_ptr(),
                grad_final[first:].data_ptr(),
                tuple(grad.data_ptr() for grad in partial[index]),
                grad_state[first:].data_ptr(),
            )

        _each(run, len(ctx.parts))
        gradients = [
            torch.stack(each).sum(0) if each[1:] else each[0] for each in zip(*partial, strict=True)
        ]
        return None, None, None, grad_state, *gradients


def _plain(tensor: Tensor) -> Tensor:
    """The tensor, contiguous in memory."""
    return tensor.contiguous().resolve_neg()


def shares(total: int, threads: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of ``total`` items for each thread, at least one for each."""
    count = min(threads, total)
    return list(pairwise(total * index // count for index in range(count + 1)))


def _each(run: Callable[[int], None], count: int) -> None:
    if count == 1:
        run(0)
        return
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


def run_stack_cpu(
    spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the stack over ``events``; see :func:`surrogate.kernels.run_stack`.

    The batch is split among ``torch.get_num_threads()`` threads: by default all cores, which is
    faster only for wide layers on an idle machine. Gradients are first derivatives.
    """
    ordered = []
    weights = effective_weights(spec.branches, weights)
    for name, shape in spec.parameter_shapes().items():  # C++ gets addresses only
        weight = weights[name]
        if weight.shape != shape or weight.dtype != state.dtype or weight.device != state.device:
            raise ValueError(
                f"{name} is {weight.dtype} of shape {tuple(weight.shape)} on {weight.device}, "
                f"expected {state.dtype} of shape {shape} on {state.device}"
            )
        ordered.append(weight)
    if events.device.type != "cpu" or state.device.type != "cpu":
        raise ValueError(
            f"the C++ kernels run on the CPU: events on {events.device}, state on {state.device}"
        )
    # Inside the function gradients are off, and requires_grad does not reflect torch.no_grad().
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in (state, *ordered))
    return _RunStack.apply(spec, events, keep, state, *ordered)
