"""Stepwise inference on a GPU: many neurons, one bin and one launch per call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from surrogate.kernels.spec import StackSpec
from surrogate.kernels.triton import launching_on, why_not
from surrogate.kernels.triton.barrier import COUNTER_STRIDE, MAX_POLLS
from surrogate.kernels.triton.cells import cell_of
from surrogate.kernels.triton.chips import chip_of
from surrogate.kernels.triton.step.kernels import collect_events_kernel, step_kernel
from surrogate.kernels.triton.step.packing import PackedLayout, pack_weights
from surrogate.kernels.triton.step.plan import StepPlan, plan_step

__all__ = ["TritonStepper", "step_options"]

_COUNTS_BLOCK = 2048


class TritonStepper:
    """N neurons of one stack on a GPU, advanced in place by one bin and one launch per call.

    A call neither allocates nor waits for the device, so it can be captured in a CUDA graph: call
    once (which compiles), then capture, and write new events into the same arrays between replays.
    Launches go to the device of the weights: capture with that as torch's current one.

    Parameters
    ----------
    spec : StackSpec
    weights : mapping of str to Tensor
        By the canonical names and shapes of :meth:`StackSpec.parameter_shapes`, on the device to
        run on; copied, so later changes to them do nothing. With a leading axis of length
        ``neurons`` on every one of them, each neuron has its own weights.
    neurons : int
        Number of neurons N.
    dtype : torch.float32 (default) or torch.float64
        Of arithmetic, state and outputs; float64 in Triton's interpreter only.
    state, outputs : Tensor, optional
        Contiguous tensors [N, spec.state_size] and [N, 2] to work in; new ones, zeroed, if not
        given.
    plan : StepPlan, optional
        How the work is divided; by default ``plan_step`` chooses.

    Attributes
    ----------
    state : Tensor [N, spec.state_size]
        Layers in order, h then c.
    outputs : Tensor [N, 2]
        After a step: spike logit, and the voltage before scale and offset.

    Raises
    ------
    ValueError
        If a shape, a dtype or the plan does not fit, or Triton cannot run here.
    """

    def __init__(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        neurons: int,
        *,
        dtype: torch.dtype = torch.float32,
        state: Tensor | None = None,
        outputs: Tensor | None = None,
        plan: StepPlan | None = None,
    ) -> None:
        own_weights = _check_shapes(spec, weights, neurons)
        device = weights["layers.0.weight_ih_l0"].device
        if reason := why_not(device, dtype):
            raise ValueError(f"the Triton kernels cannot run this stack: {reason}")
        self.spec = spec
        self.neurons = neurons
        self.plan = plan or plan_step(spec, neurons, chip_of(device), own_weights)
        if own_weights and self.plan.neurons != 1:
            raise ValueError(f"{self.plan}: neurons with their own weights take one per program")
        self.state = self._array(state, (neurons, spec.state_size), dtype, device, "state")
        self.outputs = self._array(outputs, (neurons, 2), dtype, device, "outputs")
        layout = PackedLayout.of(spec, self.plan)
        self._weights = pack_weights(spec, weights, layout, dtype)
        in_place = all(layer.in_place for layer in layout.layers)
        self._fresh = self.state if in_place else torch.empty_like(self.state)
        tiles = triton.cdiv(neurons, self.plan.neurons)
        self._grid = (tiles, self.plan.split)
        self._arrived = torch.zeros(tiles * COUNTER_STRIDE.value, dtype=torch.int32, device=device)
        self._failed = torch.zeros(1, dtype=torch.int32, device=device)
        self._options: dict[str, Any] = step_options(spec, self.plan, layout, own_weights)
        self._listed: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def _array(
        given: Tensor | None,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        name: str,
    ) -> Tensor:
        if given is None:
            return torch.zeros(shape, dtype=dtype, device=device)
        found = (tuple(given.shape), given.dtype, given.device, given.is_contiguous())
        if found != (shape, dtype, device, True):
            raise ValueError(
                f"{name} is {given.dtype} of shape {tuple(given.shape)} on {given.device}, "
                f"expected a contiguous {dtype} tensor of shape {shape} on {device}"
            )
        return given

    def step(self, channel: Tensor, row_ptr: Tensor) -> None:
        """Advance by one bin; ``channel[row_ptr[n]:row_ptr[n + 1]]`` are active at neuron n.

        Parameters
        ----------
        channel : Tensor, int16, on the device
            Ascending and unique per neuron and below ``spec.input_size``: not checked. May be
            longer than needed, so that one array serves every bin.
        row_ptr : Tensor, int32 [N + 1], on the device
        """
        if channel.dtype != torch.int16 or row_ptr.dtype != torch.int32:
            raise ValueError(
                f"channel is {channel.dtype} and row_ptr {row_ptr.dtype}, expected int16 and int32"
            )
        if row_ptr.shape != (self.neurons + 1,):
            raise ValueError(
                f"row_ptr has shape {tuple(row_ptr.shape)}, expected ({self.neurons + 1},)"
            )
        self._launch(channel, row_ptr, row_ptr[1:])

    def step_counts(self, counts: Tensor, lost: Tensor) -> None:
        """Advance by one bin in which ``counts[n, channel]`` spikes arrived, and clear the counts.

        A channel with one spike or more is active. ``lost[n]`` grows by the spikes beyond the first
        of each channel, which the stack, trained on zeros and ones, ignores. Takes two launches:
        the first lists the active channels, in arrays that the first call allocates.

        Parameters
        ----------
        counts : Tensor, int32 [N, spec.input_size], contiguous, on the device
            Zeroed by the call.
        lost : Tensor, int64 [N], contiguous, on the device
        """
        inputs = self.spec.input_size
        for name, given, dtype, shape in (
            ("counts", counts, torch.int32, (self.neurons, inputs)),
            ("lost", lost, torch.int64, (self.neurons,)),
        ):
            self._array(given, shape, dtype, self.state.device, name)
        if self._listed is None:
            begin = torch.arange(self.neurons, device=self.state.device) * inputs
            channel = torch.empty(
                self.neurons * inputs, dtype=torch.int16, device=self.state.device
            )
            self._listed = channel, begin, torch.empty_like(begin)
        channel, begin, end = self._listed
        block = min(_COUNTS_BLOCK, triton.next_power_of_2(inputs))
        with launching_on(self.state.device):
            collect_events_kernel[(self.neurons,)](
                counts, lost, channel, begin, end, INPUTS=inputs, BLOCK=block, num_warps=4
            )
        self._launch(channel, begin, end)

    def check(self) -> None:
        """Wait for the device and raise if a barrier between programs of a step failed.

        Raises
        ------
        RuntimeError
            The states are then invalid. It means that programs of one launch did not run at once.
        """
        if self._failed.item():
            raise RuntimeError(
                f"programs that share a tile of neurons did not meet within {MAX_POLLS} polls: the "
                "states are void; pass a plan with split=1"
            )

    def _launch(self, channel: Tensor, begin: Tensor, end: Tensor) -> None:
        with launching_on(self.state.device):
            step_kernel[self._grid](
                channel,
                begin,
                end,
                self._weights,
                self.state,
                self._fresh,
                self.outputs,
                self._arrived,
                self._failed,
                self.neurons,
                **self._options,
            )


def step_options(
    spec: StackSpec, plan: StepPlan, layout: PackedLayout, own_weights: bool
) -> dict[str, Any]:
    """The compile-time arguments of :func:`step_kernel` and the options of its launch."""
    return {
        "CELL": cell_of(spec.arch).forward,
        "STACK": layout,
        "PLAN": plan,
        "OWN_WEIGHTS": own_weights,
        "POLLS": MAX_POLLS,
        "num_warps": plan.warps,
        "num_stages": 1,
        "launch_cooperative_grid": plan.split > 1,
    }


def _check_shapes(spec: StackSpec, weights: Mapping[str, Tensor], neurons: int) -> bool:
    """Whether each neuron has its own weights; raises ValueError where a shape does not fit."""
    expected = spec.parameter_shapes()
    own = weights["layers.0.weight_ih_l0"].dim() == 3
    for name, shape in expected.items():
        wanted = (neurons, *shape) if own else shape
        if tuple(weights[name].shape) != wanted:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, expected {wanted}")
    return own
