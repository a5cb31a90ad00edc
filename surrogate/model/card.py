"""The model card: what the weights of a model file are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from surrogate.channels import Channels
from surrogate.errors import UsageError
from surrogate.kernels import StackSpec
from surrogate.model.spike_rule import SpikeRule
from surrogate.validated import validated

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["ModelCard"]


def _finite(value: Any) -> Any:
    json.dumps(value, allow_nan=False)
    return value


_Range = Annotated[list[float], Field(min_length=2, max_length=2)]
_Facts = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


@validated("model card")
@dataclass
class ModelCard:
    """What a simulator, a reader or a later training needs to know about the weights.

    Attributes
    ----------
    spec : StackSpec
        The stack.
    channels : Channels
        The groups of input channels.
    dt_ms : float
        Length of a bin, ms.
    spike_rule : SpikeRule or None
        None until one has been chosen.
    segments : dict of str to list
        Columns of the segment table, such as type and ``distance_um`` (from the soma); empty if the
        neuron has none.
    resting_voltage_mv : float
        Median soma voltage at the start of the training trials.
    input_rate_hz : dict
        By channel group: lowest and highest mean rate per synapse, Hz, over the windows seen in
        training.
    recipe, seed
        How the weights were trained.
    data : dict
        Digest, name and number of trials of the training data.
    metrics : dict
        Scores on the validation trials at the epoch kept.
    versions : dict
        Of the software that made the file.

    Raises
    ------
    UsageError
        If a field has another type, a number is not finite, or stack and channels differ in number
        of inputs.
    """

    spec: StackSpec
    channels: Channels
    dt_ms: Annotated[float, Field(gt=0)]
    spike_rule: SpikeRule | None = None
    segments: dict[str, list[str | int | float]] = field(default_factory=dict)
    resting_voltage_mv: float | None = None
    input_rate_hz: dict[str, _Range] = field(default_factory=dict)
    recipe: _Facts = field(default_factory=dict)
    seed: int | None = None
    data: _Facts = field(default_factory=dict)
    metrics: _Facts = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels.size != self.spec.input_size:
            raise UsageError(
                f"{self.channels.size} input channels ({self.channels}), the stack has "
                f"{self.spec.input_size}: expected equally many"
            )

    def check_fits(
        self,
        dataset: Dataset,
        whose: str = "the model",
        cure: str = "give data of the neuron it was trained on",
    ) -> None:
        """Refuse data with other bins or channels than the model's.

        Raises
        ------
        UsageError
            Naming the difference.
        """
        for what, theirs, ours in (
            ("channels", str(dataset.channels), str(self.channels)),
            ("bins", f"{dataset.dt_ms:g} ms", f"{self.dt_ms:g} ms"),
        ):
            if theirs != ours:
                raise UsageError(f"{dataset.path}: {what} of {theirs}, {whose} has {ours}; {cure}")
