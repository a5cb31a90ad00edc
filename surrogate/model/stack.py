"""`RecurrentStack`: the recurrent network that stands in for a neuron."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surrogate.errors import UsageError
from surrogate.kernels import (
    SpikeEvents,
    StackSpec,
    Stepper,
    default_provider,
    run_models,
    run_stack,
)
from surrogate.kernels.branches import Branches

__all__ = ["RecurrentStack", "run_stacks"]


class RecurrentStack(nn.Module):
    """Vanilla RNN, GRU, LSTM or ELM layers that end in spike logit and soma voltage.

    Layer l computes what ``torch.nn.RNN`` (tanh), ``GRU`` or ``LSTM`` computes, with the same
    parameter names, so that state dicts move both ways: ``stack.layers[l]`` *is* that module. What
    a layer of ``elm`` computes is in ``surrogate.kernels.architectures``.

    Parameters
    ----------
    arch : str
        A key of ``surrogate.kernels.ARCHITECTURES``: "rnn", "gru", "lstm", "elm" or "elm_silu".
    hidden_sizes : sequence of int
        Units of each layer, 1 to 512, the last always 2.
    input_size : int
        Input channels.
    head : "recurrent" | "linear"
        Whether the last two units are recurrent (the blog's choice) or a linear readout.
    voltage_scale, voltage_offset : float
        Soma voltage in mV = second output x scale + offset. The blog's are 100 and 0.
    branches : Branches, optional
        The input stage; by default the first layer sees every channel.
    provider : str, optional
        Implementation to use, a key of ``surrogate.kernels.PROVIDERS``; by default the fastest.

    Raises
    ------
    UsageError
        If arch, sizes or head do not exist.
    """

    def __init__(
        self,
        arch: str,
        hidden_sizes: Sequence[int],
        input_size: int,
        head: str = "recurrent",
        *,
        voltage_scale: float = 100.0,
        voltage_offset: float = 0.0,
        branches: Branches | None = None,
        provider: str | None = None,
    ) -> None:
        super().__init__()
        scales = voltage_scale, voltage_offset
        spec = StackSpec(arch, tuple(hidden_sizes), input_size, head, *scales, branches)
        try:
            default_provider()  # refuses a setting of the environment that cannot be followed
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.spec = spec
        self.provider = provider
        if branches is not None:
            self.branches = nn.Module()
            for name, shape in branches.parameter_shapes().items():
                parameter = nn.Parameter(torch.empty(shape))
                self.branches.register_parameter(name.removeprefix("branches."), parameter)
        self.layers = nn.ModuleList(
            spec.architecture.make_layer(n_in, size)
            for n_in, size in zip(spec.layer_inputs, spec.recurrent_sizes, strict=True)
        )
        self.head = nn.Linear(spec.recurrent_sizes[-1], 2) if head == "linear" else None
        self.reset_parameters()

    @classmethod
    def from_spec(cls, spec: StackSpec, provider: str | None = None) -> RecurrentStack:
        """Build the stack that ``spec`` describes."""
        return cls(
            spec.arch,
            spec.hidden_sizes,
            spec.input_size,
            spec.head,
            voltage_scale=spec.voltage_scale,
            voltage_offset=spec.voltage_offset,
            branches=spec.branches,
            provider=provider,
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Zero biases and Xavier-uniform weights (Glorot and Bengio 2010), as in the blog.

        All but the first layer's input weights are divided by the architecture's ``output_size``.
        Branches begin with weights of 0.5 and time constants of 5 bins, units that have one with
        time constants from 1 to 150 bins, evenly spaced on a logarithmic scale.
        """
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2 and name != "layers.0.weight_ih_l0":
                    parameter.div_(self.spec.architecture.output_size)
                if name.endswith("log_tau"):
                    parameter.copy_(torch.linspace(0, math.log(150), len(parameter)))
            if self.spec.branches is not None:
                weight = self.spec.branches.parameter_of(0.5)
                self.get_parameter("branches.weight").fill_(weight)
                self.get_parameter("branches.log_tau").fill_(math.log(5))

    def initial_state(self, batch: int) -> Tensor:
        """A zero state [batch, spec.state_size]."""
        first = next(self.parameters())
        return torch.zeros(batch, self.spec.state_size, dtype=first.dtype, device=first.device)

    def forward(
        self, events: SpikeEvents, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run over ``events``.

        Parameters
        ----------
        events : SpikeEvents
            B sequences of T bins.
        state : Tensor [B, spec.state_size], optional
            State before the first bin; zeros if not given.

        Returns
        -------
        logits : Tensor [B, T]
            Spike logit of each bin; its sigmoid is the spike probability.
        voltage : Tensor [B, T]
            Soma voltage, mV.
        state : Tensor [B, spec.state_size]
            State after the last bin: pass it on to continue where this call ended.
        """
        weights = dict(self.named_parameters())
        outputs, state = run_stack(self.spec, weights, events, state, self.provider)
        voltage = outputs[..., 1] * self.spec.voltage_scale + self.spec.voltage_offset
        return outputs[..., 0], voltage, state

    def step(
        self, events: SpikeEvents, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advance by one bin: logits [B], voltage [B] in mV, and the new state.

        Differentiable, and prepares the weights anew at each call: to simulate, use
        :meth:`stepper`, which is some hundred times faster.

        Raises
        ------
        ValueError
            If ``events`` holds more than one bin per sequence.
        """
        if events.steps != 1:
            raise ValueError(f"step takes events of one bin, these have {events.steps}")
        logits, voltage, state = self(events, state)
        return logits[:, 0], voltage[:, 0], state

    def stepper(self, neurons: int, threads: int = 1) -> Stepper:
        """``neurons`` copies of this network on the CPU, to be advanced in place bin by bin.

        They keep the weights of now. See :class:`surrogate.kernels.Stepper` for how to step; the
        soma voltage in mV is ``outputs[:, 1] * spec.voltage_scale + spec.voltage_offset``.
        """
        return Stepper(self.spec, dict(self.named_parameters()), neurons, threads=threads)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        return self.spec.parameter_count

    def extra_repr(self) -> str:
        spec = self.spec
        return f"{spec.name}, head={spec.head}, {spec.parameter_count:,} parameters"


def run_stacks(
    stacks: Sequence[RecurrentStack], events: SpikeEvents, batch: int
) -> tuple[Tensor, Tensor]:
    """Run M stacks of one spec from zero states, on a GPU in one launch.

    Parameters
    ----------
    stacks : sequence of RecurrentStack
        On one device.
    events : SpikeEvents
        ``batch`` sequences that all stacks share, or M * batch, those of stack m from m * batch on.
    batch : int
        Sequences of a stack.

    Returns
    -------
    logits : Tensor [M, batch, T]
    voltage : Tensor [M, batch, T]
        Soma voltage, mV.
    """
    first = stacks[0]
    if len(stacks) == 1:
        logits, voltage, _ = first(events)
        return logits[None], voltage[None]
    weights = {
        name: torch.stack([stack.get_parameter(name) for stack in stacks])
        for name in first.spec.parameter_shapes()
    }
    state = torch.stack([stack.initial_state(batch) for stack in stacks])
    outputs, _ = run_models(first.spec, weights, events, state, first.provider)
    voltage = outputs[..., 1] * first.spec.voltage_scale + first.spec.voltage_offset
    return outputs[..., 0], voltage
