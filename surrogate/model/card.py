"""The model card: what the weights of a model file are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from surrogate.channels import ChannelGroup, Channels
from surrogate.errors import UsageError
from surrogate.kernels import StackSpec
from surrogate.model.spike_rule import SpikeRule

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["ModelCard"]


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
        If stack and channels differ in number of inputs, or the bins have no length.
    """

    spec: StackSpec
    channels: Channels
    dt_ms: float
    spike_rule: SpikeRule | None = None
    segments: dict[str, list[Any]] = field(default_factory=dict)
    resting_voltage_mv: float | None = None
    input_rate_hz: dict[str, list[float]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels.size != self.spec.input_size:
            raise UsageError(
                f"{self.channels.size} input channels ({self.channels}), the stack has "
                f"{self.spec.input_size}: expected equally many"
            )
        if not 0 < self.dt_ms < float("inf"):
            raise UsageError(f"dt_ms is {self.dt_ms!r}: expected the length of a bin in ms")

    def check_fits(self, dataset: Dataset) -> None:
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
                raise UsageError(
                    f"{dataset.path}: {what} of {theirs}, the model has {ours}; give data of the "
                    "neuron it was trained on"
                )

    def to_dict(self) -> dict[str, Any]:
        """The card as the model file holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelCard:
        """The card that :meth:`to_dict` gave.

        Raises
        ------
        TypeError, ValueError, KeyError, OverflowError
            If it is none.
        """
        rule = fields["spike_rule"]
        return cls(
            **fields
            | {
                "spec": StackSpec(**fields["spec"]),
                "channels": Channels([ChannelGroup(**g) for g in fields["channels"]["groups"]]),
                "spike_rule": None if rule is None else SpikeRule(**rule),
            }
        )
