"""The ``surrogate`` command: finds the subcommand and turns errors into one line."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

import surrogate
from surrogate.cli._common import json_text
from surrogate.errors import SurrogateError, one_line
from surrogate.files import explain_os_error

__all__ = ["cli", "main"]

# Name -> (module, attribute, line in the listing). The lines are held here so that
# `surrogate --help` imports no command: torch alone takes seconds.
COMMANDS = {
    "train": ("surrogate.cli.train", "train", "Train a surrogate on spike trains and voltage."),
    "evaluate": ("surrogate.cli.evaluate", "evaluate", "Evaluate a surrogate on a data set."),
    "compare": ("surrogate.cli.compare", "compare", "Put surrogates side by side."),
    "report": ("surrogate.cli.report", "report", "Write a page about a trained surrogate."),
    "models": ("surrogate.cli.models", "models", "List the models that come with the package."),
    "import": ("surrogate.cli.imports", "imports", "Turn models of other programs into ours."),
    "data": ("surrogate.cli.data", "data", "Convert, inspect, check and plot data sets."),
    "grid": ("surrogate.cli.grid", "grid", "Train many surrogates as one resumable job."),
    "bench": ("surrogate.cli.bench", "bench", "Measure the kernels against their alternatives."),
    "doctor": ("surrogate.cli.doctor", "doctor", "Show what this machine offers and lacks."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(surrogate.__version__, prog_name="surrogate")
def cli() -> None:
    """Replace a biological neuron model by a small recurrent network that behaves like it.

    \b
    Examples:
      surrogate train --arch lstm --out runs/lstm
      surrogate evaluate runs/lstm/model.safetensors --split test
      surrogate data info
      surrogate doctor --json

    Every command takes --json. Exit codes: 0 done, 1 failed, 2 wrong usage.
    SURROGATE_DEBUG=1 shows where an error came from. Shell completion:
    eval "$(_SURROGATE_COMPLETE=bash_source surrogate)", or zsh_source, fish_source.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    A failure is one ``Error:`` line on stderr. With ``--json``, stdout then holds one object,
    ``{"error": {"message": str, "exit_code": int}}``, so that a caller always has JSON to read.
    """
    args = sys.argv[1:] if args is None else list(args)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks costs that character, not the result.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        result = cli.main(args, prog_name="surrogate", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return _fail_json(args, error.format_message(), error.exit_code)
    except click.ClickException as error:
        return _fail(args, error.format_message(), error.exit_code)
    except click.Abort:
        return _fail(args, "Interrupted", 1, prefix="")
    except SurrogateError as error:
        if os.environ.get("SURROGATE_DEBUG") == "1":
            raise
        return _fail(args, str(error), error.exit_code)
    except (MemoryError, RuntimeError) as error:
        # torch says so in a RuntimeError, on CUDA in a subclass of it.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        detail = f" ({error})" if str(error) else ""
        return _fail(args, f"out of memory{detail}; use smaller batches or fewer jobs", 1)
    except OSError as error:
        if error.filename is None or os.environ.get("SURROGATE_DEBUG") == "1":
            raise
        return _fail(args, str(explain_os_error(error, os.fsdecode(error.filename))), 1)
    return result if isinstance(result, int) else 0


def _fail(args: Sequence[str], message: str, exit_code: int, prefix: str = "Error: ") -> int:
    line = one_line(message)
    click.echo(f"{prefix}{line}", err=True)
    return _fail_json(args, line, exit_code)


def _fail_json(args: Sequence[str], message: str, exit_code: int) -> int:
    if "--json" in args:
        click.echo(json_text({"error": {"message": message, "exit_code": exit_code}}))
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
