"""Replace a biological neuron model by a small recurrent network that behaves like it.

>>> import surrogate
>>> data = surrogate.datasets.open()              # the bundled sample
>>> run = surrogate.train(data, arch="lstm")      # doctest: +SKIP
>>> model = surrogate.load(run.model_path)        # doctest: +SKIP
>>> probability, voltage = model.predict(data)    # doctest: +SKIP
>>> print(surrogate.evaluate(model, data))        # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surrogate.version import __version__

if TYPE_CHECKING:
    from surrogate import datasets, grid
    from surrogate.evaluation.compare import compare
    from surrogate.evaluation.evaluate import evaluate
    from surrogate.evaluation.result import Evaluation
    from surrogate.model.model_file import Model, load
    from surrogate.model.stack import RecurrentStack
    from surrogate.training.run import TrainingRun, resume, train

# Without what needs Brian2, so that a star import works where Brian2 is missing.
__all__ = [
    "Evaluation",
    "Model",
    "RecurrentStack",
    "TrainingRun",
    "__version__",
    "compare",
    "datasets",
    "evaluate",
    "grid",
    "load",
    "resume",
    "train",
]

# Names are looked up on first use: torch takes seconds to import, which `surrogate --help` spares.
_HOMES = {
    "ArtificialUnits": "surrogate.brian_bridge",
    "SurrogateNeuron": "surrogate.brian_bridge",
    "datasets": "surrogate.datasets",
    "grid": "surrogate.grid",
    "compare": "surrogate.evaluation.compare",
    "Evaluation": "surrogate.evaluation.result",
    "evaluate": "surrogate.evaluation.evaluate",
    "Model": "surrogate.model.model_file",
    "load": "surrogate.model.model_file",
    "RecurrentStack": "surrogate.model.stack",
    "TrainingRun": "surrogate.training.run",
    "resume": "surrogate.training.run",
    "train": "surrogate.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surrogate' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if name in ("datasets", "grid") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
