"""What decides a run's result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import DataError, UsageError
from surrogate.kernels import StackSpec, architecture, parse_sizes
from surrogate.model.model_file import Model, load
from surrogate.training.recipe import DEFAULT_RECIPE, TEACHER_RECIPE, Recipe, load_recipe
from surrogate.validated import short, validated

__all__ = ["RunConfig"]

#: A training keeps eight copies of them, 4 bytes each: 1.3 GB.
MAX_PARAMETERS = 40_000_000


@validated("run")
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
    teacher : str or None
        Path of the teacher's model file, if there is one.
    teacher_digest : str or None
        Of that file.
    """

    spec: StackSpec
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    labels: Literal["exact", "legacy"]
    data: str | None
    data_digest: str
    reuse_windows: bool
    teacher: str | None = None
    teacher_digest: str | None = None

    def __post_init__(self) -> None:
        if self.spec.parameter_count > MAX_PARAMETERS:
            raise UsageError(
                f"{short(self.spec.name)}: {self.spec.parameter_count:,} parameters: expected at "
                f"most {MAX_PARAMETERS:,}"
            )
        if (self.teacher is None) != (self.recipe.teacher_trials == 0):
            raise UsageError(
                f"recipe {self.recipe.name} has teacher_trials = {self.recipe.teacher_trials} "
                + (
                    "and there is no teacher; give one with --teacher MODEL"
                    if self.teacher is None
                    else f"for the teacher {self.teacher}; use --recipe distilled or --set "
                    "teacher_trials=640"
                )
            )

    @classmethod
    def for_dataset(
        cls,
        dataset: Dataset,
        arch: str,
        hidden: str | Sequence[int] | None = None,
        recipe: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        teacher: Model | None = None,
        seed: int = 0,
        labels: str = "exact",
        reuse_windows: bool = False,
    ) -> Self:
        """The configuration of a run on ``dataset``; parameters as of :func:`surrogate.train`."""
        if hidden is None:
            hidden = architecture(arch).hidden_sizes
        sizes = parse_sizes(hidden) if isinstance(hidden, str) else tuple(hidden)
        default = DEFAULT_RECIPE if teacher is None else TEACHER_RECIPE
        effective = load_recipe(recipe or default, arch, settings)
        return cls(
            spec=effective.stack_spec(arch, sizes, dataset.channels, dataset.segments),
            recipe=effective,
            seed=seed,
            labels=labels,  # type: ignore[arg-type]  # validated
            data=None if dataset.is_sample else str(dataset.path.resolve()),
            data_digest=dataset.digest,
            reuse_windows=reuse_windows or dataset.is_sample,
            teacher=None if teacher is None else str(Path(teacher.path or "").resolve()),
            teacher_digest=None if teacher is None else teacher.digest,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self) | {"recipe": self.recipe.to_dict()}

    def open_data(
        self, path: str | os.PathLike[str] | None = None, whose: str = "this run"
    ) -> Dataset:
        """The data set, from ``path`` or else from where it was; see
        :func:`~surrogate.datasets.open_recorded`."""
        return datasets.open_recorded(self.data, self.data_digest, whose, path)

    def load_teacher(self, path: str | os.PathLike[str] | None = None) -> Model | None:
        """The teacher, from ``path`` or else from where it was; None if the run has none.

        Raises
        ------
        UsageError
            If another model lies there, or the run has no teacher.
        DataError
            If it cannot be read.
        """
        if self.teacher is None:
            if path is not None:
                raise UsageError(f"teacher {path}: this run has none; leave it out")
            return None
        try:
            model = load(path or self.teacher)
        except DataError as error:
            raise DataError(
                f"{error}; if the teacher moved, give its place with --teacher"
            ) from error
        if model.digest != self.teacher_digest:
            raise UsageError(
                f"{model.path} is not the teacher of this run (digest {str(model.digest)[:12]}, "
                f"expected {str(self.teacher_digest)[:12]}); give the right one with --teacher"
            )
        return model
