"""Options and progress of the commands that run models over trials."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["FILE", "evaluation_options", "progress_bar"]

Function = TypeVar("Function", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)

_OPTIONS = (
    click.option("--data", type=FILE, help="Data set [default: the bundled sample]."),
    click.option(
        "--split",
        type=click.Choice(["train", "valid", "test", "all"]),
        default="test",
        show_default=True,
        help="The trials to evaluate on.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["stateful", "blog", "published"]),
        default="stateful",
        show_default=True,
        help="Which windows are run and which bins count.",
    ),
    click.option(
        "--labels",
        type=click.Choice(["exact", "legacy"]),
        help="Spike times, exact or rounded as the public files give them [default: exact; "
        "published: legacy].",
    ),
    click.option(
        "--bootstrap",
        type=click.IntRange(min=0),
        default=1000,
        show_default=True,
        metavar="N",
        help="Resamples of the trials for the intervals; 0 for none.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of the resampling.",
    ),
)


def evaluation_options(function: Function) -> Function:
    """Add the options of :func:`surrogate.evaluate`, by its names."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, and what moves it: (bins done, bins in all), shown as a rate."""
    begun = time.monotonic()
    with click.progressbar(
        length=1, label="evaluating", file=sys.stderr, item_show_func=lambda text: text
    ) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = total
            rate = done / max(time.monotonic() - begun, 1e-9)
            bar.update(done - bar.pos, f"{rate:,.0f} ms/s")

        yield advance
