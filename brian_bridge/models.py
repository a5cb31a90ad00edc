"""Loads the models of N neurons: weights, levels and starting values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.brian_bridge.checks import check_whole
from surrogate.brian_bridge.thresholds import Threshold, threshold_of
from surrogate.errors import UsageError
from surrogate.kernels.branches import effective_weights
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model, load
from surrogate.model.spike_rule import SpikeRule

__all__ = ["ModelSource", "Population"]

ModelSource = str | os.PathLike[str] | Model


class Population:
    """The models behind N neurons: one for all, or one for each.

    Parameters
    ----------
    source : path, Model, or a sequence of N of them
    neurons : int

    Raises
    ------
    UsageError
        If N is no whole number from 1 on, a source is not a model, the number of models is not N,
        or they differ in more than their weights.
    DataError
        If a file is missing or damaged.
    """

    def __init__(self, source: ModelSource | Sequence[ModelSource], neurons: int) -> None:
        check_whole("N", neurons)
        if isinstance(source, Sequence) and not isinstance(source, str):
            self.models = [_open(one) for one in source]
            if len(self.models) != neurons:
                raise UsageError(
                    f"{len(self.models)} models for {neurons} neurons: give one for all of them, "
                    "or one for each"
                )
        else:
            self.models = [_open(source)]
        self.card: ModelCard = self.models[0].card
        self.spec = self.card.spec
        for index, model in enumerate(self.models):
            for name in ("spec", "dt_ms", "channels"):
                own, first = getattr(model.card, name), getattr(self.card, name)
                if own != first:
                    raise UsageError(
                        f"model {index} has {name} {own}, model 0 has {first}: neurons of one "
                        "group may differ in their weights alone; make a group for each kind"
                    )

    @property
    def shared(self) -> bool:
        """Whether all neurons have the same weights."""
        return len(self.models) == 1

    def weights(self) -> dict[str, Tensor]:
        """Canonical weights; with a leading axis of N where each neuron has its own."""
        if self.shared:
            return self.models[0].state_dict()
        states = [model.state_dict() for model in self.models]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def flat_weights(self, dtype: np.dtype) -> NDArray[np.floating]:
        """Parameters in canonical order as the kernels use them, row-major, model after model."""
        precision = torch.from_numpy(np.empty(0, dtype)).dtype
        arrays = []
        for model in self.models:
            # In this precision from the start, as a stepper does it.
            own = {name: value.cpu().to(precision) for name, value in model.state_dict().items()}
            ready = effective_weights(self.spec.branches, own)
            arrays += [ready[name].numpy().ravel() for name in self.spec.parameter_shapes()]
        return np.concatenate(arrays)

    def threshold(self) -> Threshold:
        """The rule of the cards.

        Raises
        ------
        UsageError
            If a card has none, or they are of several kinds.
        """
        kinds = {rule.kind: rule for rule in self._rules()}
        if len(kinds) > 1:
            raise UsageError(
                f"the models' spike rules are of several kinds ({', '.join(kinds)}): give one, "
                "such as threshold=Level()"
            )
        return threshold_of(next(iter(kinds.values())))

    def levels(self, threshold: Threshold, field: str = "logit") -> NDArray[np.float64] | float:
        """The level of each neuron's logit, or one for all; the lower one of ``low_logit``.

        Raises
        ------
        UsageError
            If it should come from a card that has no such spike rule.
        """
        given = getattr(threshold, field)
        return self._of_each_rule(field) if given is None else given

    def refractory_ms(self) -> float:
        """The refractory period of the cards, in ms."""
        periods = np.unique(self._of_each_rule("refractory_bins")) * self.card.dt_ms
        if len(periods) > 1:
            raise UsageError(
                f"the models' refractory periods differ ({', '.join(map(str, periods))} ms): "
                "give one, such as refractory=2*ms"
            )
        return float(periods[0])

    def resting_voltage_mv(self) -> NDArray[np.float64] | float:
        """Voltage before the first step, mV: where the training trials began."""
        values = [
            self.spec.voltage_offset
            if model.card.resting_voltage_mv is None
            else model.card.resting_voltage_mv
            for model in self.models
        ]
        return values[0] if self.shared else np.array(values)

    def _of_each_rule(self, field: str) -> NDArray[np.float64] | float:
        values = [getattr(rule, field) for rule in self._rules()]
        if None in values:
            raise UsageError(
                "the model card's spike rule is no hysteresis: give both levels, such as "
                "Hysteresis(-2.0, -3.0)"
            )
        return float(values[0]) if self.shared else np.array(values, np.float64)

    def _rules(self) -> Iterator[SpikeRule]:
        for model in self.models:
            if model.spike_rule is None:
                raise UsageError(
                    f"{model.path or model}: the model card has no spike rule; give a threshold "
                    'and a refractory period, such as threshold="p > 0.5", refractory=2*ms'
                )
            yield model.spike_rule


def _open(source: Any) -> Model:
    if isinstance(source, Model):
        return source
    if isinstance(source, str | os.PathLike):
        return load(source)
    raise UsageError(
        f"model {source!r}: expected the path of a model file, such as 'model.safetensors', or "
        "what surrogate.load returned, or a list with one for each neuron"
    )
