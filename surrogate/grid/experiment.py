"""One training of a grid, and the name that its folder has on every machine."""

from __future__ import annotations

import functools
import hashlib
import json

from surrogate.training.run_config import RunConfig

__all__ = ["Experiment"]


class Experiment(RunConfig):
    """A run of a grid. Learning rate and class weight are in its recipe."""

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of SHA-256 over what decides the result, and over nothing else.

        The recipe's name says where the values came from, not what they are, and the data are known
        by their digest.
        """
        content = self.to_dict()
        for name in ("data", "teacher", "reuse_windows"):
            del content[name]
        del content["recipe"]["name"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def class_weight(self) -> float | None:
        """Weight of spike bins in the loss; None for none, which is a weight of 1."""
        return None if self.recipe.class_weight == 1 else self.recipe.class_weight

    @property
    def configuration(self) -> str:
        """``"lstm 256-64-2"``: what experiments that cost the same have in common."""
        return self.spec.name

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
            "arch": self.spec.arch,
            "hidden_sizes": list(self.spec.hidden_sizes),
            "learning_rate": self.recipe.learning_rate,
            "class_weight": self.class_weight,
            "seed": self.seed,
        }
