"""What decides a run's result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import UsageError
from surrogate.kernels import StackSpec, architecture, parse_sizes
from surrogate.training.recipe import DEFAULT_RECIPE, Recipe, load_recipe

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's result, bit for bit on one machine.

    Attributes
    ----------
    spec : StackSpec
    recipe : Recipe
    seed : int
        Of initial weights, windows and input jitter.
    labels : "exact" | "legacy"
        Which output spike times are learnt.
    data : str or None
        Path of the data set; None is the bundled sample.
    data_digest : str
        Of its contents.
    reuse_windows : bool
    """

    spec: StackSpec
    recipe: Recipe
    seed: int
    labels: str
    data: str | None
    data_digest: str
    reuse_windows: bool

    def __post_init__(self) -> None:
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed!r}: expected a whole number from 0")
        if self.labels not in ("exact", "legacy"):
            raise UsageError(f"labels {self.labels!r}: expected exact or legacy")

    @classmethod
    def for_dataset(
        cls,
        dataset: Dataset,
        arch: str,
        hidden: str | Sequence[int] | None = None,
        recipe: str | os.PathLike[str] = DEFAULT_RECIPE,
        settings: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        labels: str = "exact",
        reuse_windows: bool = False,
    ) -> Self:
        """The configuration of a run on ``dataset``; parameters as of :func:`surrogate.train`."""
        if hidden is None:
            hidden = architecture(arch).hidden_sizes
        sizes = parse_sizes(hidden) if isinstance(hidden, str) else tuple(hidden)
        effective = load_recipe(recipe, arch, settings)
        return cls(
            spec=effective.stack_spec(arch, sizes, dataset.n_inputs),
            recipe=effective,
            seed=seed,
            labels=labels,
            data=None if dataset.is_sample else str(dataset.path.resolve()),
            data_digest=dataset.digest,
            reuse_windows=reuse_windows or dataset.is_sample,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self) | {"recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gives; ValueError, TypeError or KeyError if it is damaged."""
        spec, recipe = StackSpec(**values["spec"]), Recipe.from_dict(values["recipe"])
        return cls(**{**values, "spec": spec, "recipe": recipe})

    def open_data(
        self, path: str | os.PathLike[str] | None = None, whose: str = "this run"
    ) -> Dataset:
        """The data set, from ``path`` or else from where it was; see
        :func:`~surrogate.datasets.open_recorded`."""
        return datasets.open_recorded(self.data, self.data_digest, whose, path)
