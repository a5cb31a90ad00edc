"""How a run is shown while it trains."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from surrogate.errors import printable
from surrogate.kernels import default_provider
from surrogate.training.trainer import Trainer, TrainingProgress

__all__ = ["Console", "Reporter"]


class Reporter:
    """Shows nothing, and calls ``callback`` after each step."""

    def __init__(self, callback: Callable[[TrainingProgress], None] = lambda _: None) -> None:
        self._callback = callback

    def say(self, text: str) -> None:
        """What the run does next."""

    def begin(self, trainer: Trainer) -> None:
        """What is going to be trained."""

    @contextlib.contextmanager
    def steps(self, trainer: Trainer) -> Iterator[Callable[[TrainingProgress], None]]:
        """Gives what the training calls after each step."""
        yield self._callback


class Console(Reporter):
    """Shows a run on stderr: what is trained, and a line for each epoch.

    On a terminal another line, written over at each step, says how far it is.
    """

    def say(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def begin(self, trainer: Trainer) -> None:
        config, dataset = trainer.config, trainer.dataset
        name = "the bundled sample" if dataset.is_sample else str(dataset.path)
        place = f"{trainer.device} ({default_provider(trainer.device, spec=config.spec)})"
        self.say(
            f"{config.spec.arch} {config.spec.sizes_text} on {name}, {place}, seed {config.seed}\n"
            f"run folder: {trainer.folder.path}\n\n{config.recipe.to_toml()}"
        )
        if config.teacher:
            self.say(
                f"teacher: {config.teacher}, {config.recipe.teacher_trials:,} trials drawn with "
                f"seed {config.seed}"
            )
        if trainer.plan.reused:
            self.say(
                f"note: the run takes {len(trainer.plan.trial):,} windows, more than the data "
                "hold; they come again in a new order"
            )

    @contextlib.contextmanager
    def steps(self, trainer: Trainer) -> Iterator[Callable[[TrainingProgress], None]]:
        recipe, terminal = trainer.config.recipe, sys.stderr.isatty()
        began, first = time.monotonic(), trainer.step
        erase = "\r\033[K" if terminal else ""

        def show(progress: TrainingProgress) -> None:
            seconds, steps = time.monotonic() - began, max(1, progress.step - first)
            rate = f"{steps * recipe.batch_size / seconds:.1f} windows/s"
            if metrics := progress.metrics:
                auc, rmse = (_figure(metrics[key]) for key in ("roc_auc", "voltage_rmse_mv"))
                self.say(
                    f"{erase}epoch {metrics['epoch']:>3}/{recipe.epochs}  "
                    f"loss {metrics['loss']:.5f}  ROC AUC {auc}  voltage RMSE {rmse} mV  "
                    f"{rate}{'  kept' if metrics['kept'] else ''}"
                )
            if terminal:
                left = (progress.steps - progress.step) * seconds / steps
                line = f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  {rate}"
                print(f"{erase}{line}  {left:.0f} s left", end="", file=sys.stderr, flush=True)

        try:
            yield show
        finally:
            if terminal:
                self.say("")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
