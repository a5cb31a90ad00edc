"""Training recipes: every choice of a training run, in one flat table of numbers and names."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from surrogate.channels import MAX_CHANNELS, Channels
from surrogate.errors import DataError, UsageError
from surrogate.files import explain_os_error
from surrogate.kernels import ARCHITECTURES, StackSpec
from surrogate.kernels.branches import MAX_BRANCHES, Branches
from surrogate.stored import parse_toml, read_toml
from surrogate.training.routing import route
from surrogate.validated import hint, short, validate, validated

__all__ = [
    "BUILT_IN",
    "DEFAULT_RECIPE",
    "SHORTEST_MEMORY_MS",
    "TEACHER_RECIPE",
    "Recipe",
    "check_key",
    "load_recipe",
]

BUILT_IN = ("tuned", "blog", "distilled")
DEFAULT_RECIPE = "tuned"
#: The default where a teacher is given.
TEACHER_RECIPE = "distilled"

#: A run's windows are planned before it begins, in 48 bytes each.
MAX_WINDOWS = 10**7

#: Shortest time constant, ms, of the memories that ``memory_ms`` asks for.
SHORTEST_MEMORY_MS = 2.0

Share = Annotated[float, Field(ge=0, le=0.9999999)]
Rate = Annotated[float, Field(ge=0, le=10)]
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
Weight = Annotated[Scale, BeforeValidator(lambda value: 1.0 if value == "none" else value)]
#: Without an upper end. JSON has no infinity: there it is the string "inf".
Limit = Annotated[
    float,
    Field(le=math.inf, allow_inf_nan=True),
    BeforeValidator(lambda value: math.inf if value == "inf" else value),
]


@validated("recipe")
@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes, apart from data, sizes and seed.

    Attributes
    ----------
    name : str
        The built-in recipe it started from.
    head : "recurrent" | "linear"
    voltage_scale_mv, voltage_offset_mv : float
        Soma voltage in mV = second output x scale + offset.
    input : "dense" | "branches"
        Whether the first layer sees every channel, or leaky traces on branches, each fed by some of
        the channels with a signed weight each: :class:`surrogate.kernels.branches.Branches`.
    branches, branch_synapses, branch_routing
        Number of branches, and what feeds them; see :func:`surrogate.training.routing.route`.
    branch_weights : "softplus" | "relu"
        What makes the weights of excitatory and inhibitory synapses positive and negative.
    branch_saturation : "tanh" | "none"
        Of the traces.
    branch_tau_ms, branch_weight : float
        Time constant of the traces and size of the weights, to begin with.
    sign_aware_init : bool
        Give a unit's initial weights one sign for excitatory and the other for inhibitory synapses,
        and one size for all synapses of a kind: random weights of single synapses are noise, which
        a short training cannot unlearn. Behind branches it has no effect.
    input_gain : float
        Factor on the initial weights of the channels; behind branches without effect.
    memory_ms : float
        The first layer starts as leaky memories with time constants from 2 ms up to this; 0 leaves
        biases at zero and recurrent weights Xavier. Layers of elm start with time constants from
        one bin up to this; 0 leaves 150 bins.
    base_rate_bias : bool
        Start the linear head's spike bias at the log odds of the training data's spike rate.
    epochs, windows_per_epoch, batch_size : int
    window_ms : int
        Length of a training window, in 1 ms bins.
    window_rule : "one_per_trial" | "distinct"
        No trial twice, or no (trial, start) twice.
    burn_in_ms : int
        Bins at a window's start that the loss leaves out, because they depend on the zero state.
    learning_rate, learning_rate_min : float
        Cosine annealing from the one to the other over all steps, after ``warmup_steps``.
    weight_decay, beta1, beta2, epsilon : float
        AdamW (Loshchilov and Hutter 2019).
    gradient_clip : float
        Largest norm of the whole gradient.
    class_weight : float
        Weight of spike bins in the binary cross-entropy, PyTorch's ``pos_weight``; 1 or "none" is
        none.
    voltage_unit_mv : float
        Unit of the mean squared error: 1 takes it in mV, 100 in V/100.
    voltage_weight : float
        Weight of the voltage loss against the spike loss.
    voltage_clip_mv : float
        Target voltages above are cut there, so that spikes do not dominate the error.
    event_drop : float
        Share of input spikes left out at random from each training window.
    segment_jitter : float
        Share of input spikes moved at random to a neighbouring dendritic segment.
    weight_average : float
        Decay per step of the running average of the weights that is evaluated and kept; 0 is none.
    select_by : "nll" | "auc" | "spread" | "last"
        What picks the epoch kept: lowest spike negative log-likelihood on validation trials,
        highest ROC AUC, widest spread of the outputs around the threshold, or none.
    patience : int
        Epochs without a better score after which the run stops; 0 never stops early.
    teacher_trials : int
        Trials that are drawn from the input protocol and labelled by a teacher; 0 without one.
    protocol_scale : float
        Factor on the rates of that protocol; 1 suits the layer 5 pyramidal cell.
    real_share : float
        Share of each batch that comes from real trials beside the teacher's.
    finetune_epochs : int
        Epochs at the end that take real trials alone.
    """

    name: str
    head: Literal["recurrent", "linear"]
    voltage_scale_mv: Scale
    voltage_offset_mv: float
    input: Literal["dense", "branches"]
    branches: Annotated[int, Field(ge=1, le=MAX_BRANCHES)]
    branch_synapses: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    branch_routing: Literal["overlapping", "place"]
    branch_weights: Literal["softplus", "relu"]
    branch_saturation: Literal["tanh", "none"]
    branch_tau_ms: Annotated[float, Field(ge=1e-3, le=1e6)]
    branch_weight: Scale
    sign_aware_init: bool
    input_gain: Scale
    memory_ms: Annotated[float, Field(ge=0, le=1e6)]
    base_rate_bias: bool
    epochs: Annotated[int, Field(ge=1, le=10**5)]
    windows_per_epoch: Annotated[int, Field(ge=1, le=10**9)]
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    window_ms: Annotated[int, Field(ge=1, le=10**6)]
    window_rule: Literal["one_per_trial", "distinct"]
    burn_in_ms: Annotated[int, Field(ge=0, le=10**6)]
    learning_rate: Rate
    learning_rate_min: Rate
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)]
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    beta1: Share
    beta2: Share
    epsilon: Annotated[float, Field(ge=1e-30, le=1)]
    gradient_clip: Annotated[Limit, Field(ge=1e-12)]
    class_weight: Weight
    voltage_unit_mv: Scale
    voltage_weight: Annotated[float, Field(ge=0, le=1e6)]
    voltage_clip_mv: Annotated[Limit, Field(ge=-1e3)]
    event_drop: Annotated[float, Field(ge=0, le=0.99)]
    segment_jitter: Annotated[float, Field(ge=0, le=1)]
    weight_average: Share
    select_by: Literal["nll", "auc", "spread", "last"]
    patience: Annotated[int, Field(ge=0, le=10**6)]
    teacher_trials: Annotated[int, Field(ge=0, le=10**8)]
    protocol_scale: Scale
    real_share: Annotated[float, Field(ge=0, le=1)]
    finetune_epochs: Annotated[int, Field(ge=0, le=10**6)]

    def __post_init__(self) -> None:
        if self.windows_per_epoch % self.batch_size:
            raise UsageError(
                f"recipe windows_per_epoch = {self.windows_per_epoch} is no multiple of "
                f"batch_size = {self.batch_size}"
            )
        if self.epochs * self.windows_per_epoch > MAX_WINDOWS:
            raise UsageError(
                f"recipe epochs x windows_per_epoch = {self.epochs * self.windows_per_epoch:,}: "
                f"expected at most {MAX_WINDOWS:,}"
            )
        if self.burn_in_ms >= self.window_ms:
            raise UsageError(
                f"recipe burn_in_ms = {self.burn_in_ms} leaves nothing of window_ms = "
                f"{self.window_ms}"
            )
        if 0 < self.memory_ms <= SHORTEST_MEMORY_MS:
            raise UsageError(
                f"recipe memory_ms = {self.memory_ms}: expected 0 or more than "
                f"{SHORTEST_MEMORY_MS:g}"
            )
        if not self.teacher_trials and (self.real_share < 1 or self.finetune_epochs):
            raise UsageError(
                f"recipe real_share = {self.real_share:g}, finetune_epochs = "
                f"{self.finetune_epochs} without a teacher: expected 1 and 0, or teacher_trials"
            )
        if self.finetune_epochs >= self.epochs:
            raise UsageError(
                f"recipe finetune_epochs = {self.finetune_epochs}: expected fewer than epochs = "
                f"{self.epochs}"
            )
        if self.base_rate_bias and self.head != "linear":
            raise UsageError("recipe base_rate_bias = true needs head = 'linear'")

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.windows_per_epoch // self.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def real_from_step(self) -> int:
        """The step from which on all windows are real: the fine-tuning, or the end."""
        return (self.epochs - self.finetune_epochs) * self.steps_per_epoch

    def real_windows(self, step: int) -> tuple[int, int]:
        """How many windows of real trials the steps before ``step`` take, and how many it takes."""
        mixed = round(self.real_share * self.batch_size)
        real_steps = max(0, step - self.real_from_step)
        before = (step - real_steps) * mixed + real_steps * self.batch_size
        return before, self.batch_size if step >= self.real_from_step else mixed

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step`` (from 0).

        Linear warm-up, then the cosine annealing of Loshchilov and Hutter (2017), eq. 5, without
        restarts, as ``torch.optim.lr_scheduler.CosineAnnealingLR`` with ``T_max`` = all steps.
        """
        swing = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        rate = self.learning_rate_min + (self.learning_rate - self.learning_rate_min) * swing
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def to_dict(self) -> dict[str, Any]:
        """The fields; infinities as the string ``"inf"``, which JSON can hold."""
        return {
            key: "inf" if value == math.inf else value
            for key, value in dataclasses.asdict(self).items()
        }

    def stack_spec(
        self,
        arch: str,
        hidden_sizes: Sequence[int],
        channels: Channels,
        segments: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> StackSpec:
        """The stack with these layers on ``channels``; input stage, head and voltage as here.

        ``segments`` are columns of the segment table, which routing by place needs.

        Raises
        ------
        UsageError
            If there is no such stack.
        """
        branches = None
        if self.input == "branches":
            sizes = self.branches, self.branch_synapses
            branches = Branches(
                route(self.branch_routing, channels, segments, *sizes),
                [group.sign for group in channels.groups for _ in range(group.size)],
                self.branch_weights,
                self.branch_saturation,
            )
        return StackSpec(
            arch,
            tuple(hidden_sizes),
            channels.size,
            self.head,
            self.voltage_scale_mv,
            self.voltage_offset_mv,
            branches,
        )

    def to_toml(self) -> str:
        """The recipe as a TOML file that ``--recipe FILE`` reads back."""
        values = dataclasses.asdict(self)
        lines = [f'base = "{values.pop("name")}"']
        for key, value in values.items():
            if isinstance(value, bool):
                text = str(value).lower()
            elif isinstance(value, str):
                text = f'"{value}"'
            else:
                text = repr(value)
            lines.append(f"{key} = {text}")
        return "\n".join(lines) + "\n"


_TYPES = {
    key: of for key, of in get_type_hints(Recipe, include_extras=True).items() if key != "name"
}


def load_recipe(
    source: str | os.PathLike[str], arch: str, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe: a built-in name or a TOML file, with single keys overridden.

    A file may begin with ``base = "tuned"`` (the default) or another built-in recipe and then lists
    only what differs. A table such as ``[rnn]`` holds for that architecture alone.

    Parameters
    ----------
    source : str or path
    arch : str
        A key of :data:`surrogate.kernels.ARCHITECTURES`.
    overrides : mapping, optional
        Values by key; strings are read as TOML values.

    Raises
    ------
    UsageError
        For an unknown recipe, key or value; a key close to a known one is suggested.
    DataError
        If the file cannot be read or is not TOML.
    """
    if str(source) in BUILT_IN:
        table: dict[str, Any] = {}
        base = str(source)
    else:
        table = _read_file(source)
        base = table.pop("base", DEFAULT_RECIPE)
        if base not in BUILT_IN:
            raise UsageError(f"{source}: base = {short(base)}: expected {' or '.join(BUILT_IN)}")
    built_in = parse_toml(
        (resources.files("surrogate.training") / "recipes" / f"{base}.toml").read_text("utf-8")
    )
    values: dict[str, Any] = {}
    for layer in (built_in, table):
        specific = {name: layer.pop(name, {}) for name in ARCHITECTURES}
        values |= _checked("recipe", layer)
        for name, part in specific.items():
            checked = _checked(
                f"recipe [{name}]", validate(dict[str, Any], part, f"recipe [{name}]")
            )
            if name == arch:
                values |= checked
    given = (overrides or {}).items()
    parsed = {key: _parse(value) if isinstance(value, str) else value for key, value in given}
    return Recipe(name=base, **values | _checked("recipe", parsed))


def _checked(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Each value of ``table`` in the type of its field."""
    for key in table:
        check_key(key)
    return {key: validate(_TYPES[key], value, f"{where} {key}") for key, value in table.items()}


def check_key(key: str) -> None:
    """Raise UsageError if a recipe has no such key."""
    if key not in _TYPES:
        raise UsageError(f"unknown recipe key {short(key)}{hint(key, _TYPES)}")


def _read_file(source: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return read_toml(source)
    except FileNotFoundError:
        name = str(source)
        raise UsageError(
            f"unknown recipe {short(name)}{hint(name, BUILT_IN)} or the path of a file"
        ) from None
    except OSError as error:
        raise explain_os_error(error, source) from error
    except ValueError as error:
        raise DataError(f"{source}: not a TOML file ({error})") from error


def _parse(text: str) -> Any:
    """A value from the command line: TOML if it is TOML, else the string itself."""
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if len(table) == 1 else text
