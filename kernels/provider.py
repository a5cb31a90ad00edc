"""The base class of providers: objects that each compute stacks in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.spec import StackSpec

__all__ = ["DeviceSteps", "Provider", "Steps"]


class Steps(Protocol):
    """The part of a :class:`surrogate.kernels.Stepper` that advances its neurons."""

    @property
    def step(self) -> Callable[[NDArray[np.int16], NDArray[np.int32]], None]:
        """As :attr:`surrogate.kernels.Stepper.step`."""

    @property
    def step_counts(self) -> Callable[[NDArray[np.int32], NDArray[np.int64]], None]:
        """As :attr:`surrogate.kernels.Stepper.step_counts`."""


class DeviceSteps(Protocol):
    """What advances neurons whose state is kept on a device, in that device's tensors."""

    state: Tensor
    outputs: Tensor

    def step_counts(self, counts: Tensor, lost: Tensor) -> None:
        """As :attr:`surrogate.kernels.Stepper.step_counts`."""

    def check(self) -> None:
        """Raise RuntimeError if a step failed on the device."""


class Provider(ABC):
    """One implementation of ``run_stack``, and perhaps of ``run_models`` and of stepping.

    A subclass gives :attr:`name`, :meth:`unavailable` and :meth:`run`; its object joins
    :data:`surrogate.kernels.PROVIDERS`.

    Attributes
    ----------
    name : str
        Its key in :data:`surrogate.kernels.PROVIDERS`.
    steps : bool
        Whether :meth:`stepper` gives one.
    steps_on_device : bool
        Whether :meth:`device_stepper` gives one.
    shares_launches : bool
        Whether :meth:`run_models` gains from running models together.
    """

    name: str
    steps = False
    steps_on_device = False
    shares_launches = False

    @property
    def label(self) -> str:
        """The name, with whatever else decides its speed on this machine."""
        return self.name

    def suits(self, device: torch.device) -> bool:
        """Whether it may be chosen by default on such a device."""
        return True

    @abstractmethod
    def unavailable(
        self, spec: StackSpec | None, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Why it cannot compute weights of this device and dtype, in a few words; None if it can.

        ``spec`` is the stack to compute; None leaves it open.
        """

    @abstractmethod
    def run(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :func:`surrogate.kernels.run_stack`, whose arguments have been checked."""

    def run_models(
        self, spec: StackSpec, weights: Mapping[str, Tensor], events: SpikeEvents, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :func:`surrogate.kernels.run_models`; here one model after the other."""
        models, batch, _ = state.shape
        results = [
            self.run(
                spec,
                {name: value[model] for name, value in weights.items()},
                events if events.batch == batch else events.slice_batch(model * batch, batch),
                state[model],
            )
            for model in range(models)
        ]
        outputs, final = zip(*results, strict=True)
        return torch.stack(outputs), torch.stack(final)

    def training_bytes(self, spec: StackSpec, batch: int, steps: int) -> int | None:
        """Memory in bytes that a training takes of a launch it shares, beside its weights.

        For ``batch`` windows of ``steps`` bins. None if models do not share launches.
        """
        return None

    def stepper(
        self,
        spec: StackSpec,
        weights: Mapping[str, Tensor],
        state: NDArray[Any],
        outputs: NDArray[Any],
        threads: int,
    ) -> Steps | None:
        """An object that steps neurons on the CPU, in the caller's arrays; None if there is none.

        Parameters
        ----------
        spec : StackSpec
        weights : mapping of str to Tensor
            Checked copies in canonical order, with a leading axis where each neuron has its own.
        state, outputs : NDArray [N, spec.state_size] and [N, 2]
        threads : int
        """
        return None

    def device_stepper(
        self, spec: StackSpec, weights: Mapping[str, Tensor], state: Tensor
    ) -> DeviceSteps | None:
        """An object that steps neurons on the device of ``state``, in place; None if there is none.

        Parameters
        ----------
        spec : StackSpec
        weights : mapping of str to Tensor
            On that device, in canonical order, with a leading axis where each neuron has its own.
        state : Tensor [N, spec.state_size]
        """
        return None
