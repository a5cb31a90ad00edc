"""How a run is shown while it trains."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

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
    """Shows a run on stderr: what is trained, a bar on a terminal, and a line for each epoch."""

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def begin(self, trainer: Trainer) -> None:
        config, dataset = trainer.config, trainer.dataset
        name = "the bundled sample" if dataset.is_sample else str(dataset.path)
        place = f"{trainer.device} ({default_provider(trainer.device, arch=config.spec.arch)})"
        self.say(
            f"{config.spec.arch} {config.spec.sizes_text} on {name}, {place}, seed {config.seed}\n"
            f"run folder: {trainer.folder.path}\n\n{config.recipe.to_toml()}"
        )
        if trainer.plan.reused:
            self.say(
                f"note: the run takes {len(trainer.plan.trial):,} windows, more than the data "
                "hold; they come again in a new order"
            )

    @contextlib.contextmanager
    def steps(self, trainer: Trainer) -> Iterator[Callable[[TrainingProgress], None]]:
        recipe = trainer.config.recipe
        began, first = time.monotonic(), trainer.step
        last_auc = ""

        def show(progress: TrainingProgress) -> None:
            nonlocal last_auc
            rate = (progress.step - first) * recipe.batch_size / (time.monotonic() - began)
            if metrics := progress.metrics:
                auc, rmse = (_figure(metrics[key]) for key in ("roc_auc", "voltage_rmse_mv"))
                last_auc = f"  AUC {auc}"
                # On a terminal the bar is on this line: write over it.
                self.say(
                    f"{erase}epoch {metrics['epoch']:>3}/{recipe.epochs}  "
                    f"loss {metrics['loss']:.5f}  ROC AUC {auc}  voltage RMSE {rmse} mV  "
                    f"{rate:.1f} windows/s{'  kept' if metrics['kept'] else ''}"
                )
            bar.update(1, f"loss {progress.loss:.4f}{last_auc}  {rate:.1f} windows/s")

        erase = "\r\033[K" if sys.stderr.isatty() else ""
        with click.progressbar(
            length=recipe.steps - first,
            label="training",
            file=sys.stderr,
            show_pos=True,
            item_show_func=lambda text: text,
        ) as bar:
            yield show


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
