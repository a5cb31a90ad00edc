"""One training of a grid, and the name that its folder has on every machine."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass

from surrogate.kernels import StackSpec
from surrogate.training.recipe import Recipe
from surrogate.training.run_folder import RunConfig

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """What decides an experiment's result.

    Attributes
    ----------
    arch, hidden_sizes : the stack
    recipe : Recipe
        The effective one: learning rate and class weight are in it.
    seed : int
    labels : "exact" | "legacy"
    data_digest : str
        Of the data set's contents.
    """

    arch: str
    hidden_sizes: tuple[int, ...]
    recipe: Recipe
    seed: int
    labels: str
    data_digest: str

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of SHA-256 over everything above, and over nothing else.

        The recipe's name is left out: it says where the values came from, not what they are.
        """
        recipe = self.recipe.to_dict()
        del recipe["name"]
        content = {
            "arch": self.arch,
            "hidden_sizes": self.hidden_sizes,
            "recipe": recipe,
            "seed": self.seed,
            "labels": self.labels,
            "data_digest": self.data_digest,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def class_weight(self) -> float | None:
        """Weight of spike bins in the loss; None for none, which is a weight of 1."""
        return None if self.recipe.pos_weight == 1 else self.recipe.pos_weight

    @property
    def configuration(self) -> str:
        """``"lstm 256-64-2"``: what experiments that cost the same have in common."""
        return f"{self.arch} {'-'.join(map(str, self.hidden_sizes))}"

    @property
    def name(self) -> str:
        """Everything that tells it from the others of its grid, in one line."""
        weight = "none" if self.class_weight is None else f"{self.class_weight:g}"
        return (
            f"{self.configuration}, learning rate {self.recipe.learning_rate:g}, "
            f"class weight {weight}, seed {self.seed}"
        )

    def axes(self) -> dict[str, object]:
        """The coordinates in the grid, as records hold them."""
        return {
            "arch": self.arch,
            "hidden_sizes": list(self.hidden_sizes),
            "learning_rate": self.recipe.learning_rate,
            "class_weight": self.class_weight,
            "seed": self.seed,
        }

    def spec(self, n_inputs: int) -> StackSpec:
        """Its stack on ``n_inputs`` channels.

        Raises
        ------
        ValueError
            If there is no such stack.
        """
        return StackSpec(self.arch, self.hidden_sizes, n_inputs, self.recipe.head)

    def run_config(self, data: str | None, reuse_windows: bool) -> RunConfig:
        """The run folder's configuration of this experiment."""
        return RunConfig(
            arch=self.arch,
            hidden_sizes=self.hidden_sizes,
            recipe=self.recipe,
            seed=self.seed,
            labels=self.labels,
            data=data,
            data_digest=self.data_digest,
            reuse_windows=reuse_windows,
        )
