"""The command line: a table of commands. Only the module of the command that is called is imported."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from launcher.processes.signals import exit_by_exception


@dataclass(frozen=True)
class Command:
    """One command, or a group of commands, and the module that holds it."""

    name: str
    module: str
    attribute: str  # a function, or the typer app of a group
    help: str  # the line in `lehr --help`
    runs_on_ranks: bool = False  # whether torchrun or srun may start it several times at once


COMMANDS = (
    Command("data", "launcher.commands.data", "data_app", "Build token shards from text, and look into them.", True),
    Command("train", "launcher.commands.train", "train", "Train a model, on one process or many.", True),
    Command(
        "plan", "launcher.commands.plan", "plan", "Rank the layouts of a run on a number of GPUs, before it starts."
    ),
    Command(
        "rehearse", "launcher.commands.rehearse", "rehearse", "Try a run's layout on this CPU, with a small model."
    ),
    Command("runs", "launcher.commands.runs", "list_runs", "Show the family tree of runs, or the line of one run."),
    Command("slurm", "launcher.commands.slurm.app", "slurm_app", "Submit runs to Slurm, watch and cancel them.", True),
    Command("sweep", "launcher.commands.sweep", "sweep", "Train every point of a grid, and say which is best."),
    Command(
        "ladder",
        "launcher.commands.ladder.app",
        "ladder_app",
        "Forecast a large run from small ones, before it is trained.",
    ),
    Command(
        "eval", "launcher.commands.eval", "evaluate_run", "Measure a checkpoint's held-out loss, source by source."
    ),
    Command(
        "score", "launcher.commands.score", "score", "Score documents by how well small models predict them.", True
    ),
    Command(
        "generate",
        "launcher.commands.generate",
        "generate_text",
        "Continue a text by sampling from a run's checkpoint.",
    ),
    Command(
        "plot", "launcher.commands.plot", "plot_runs", "Draw the curves of runs: loss, held-out loss, forecast, lr."
    ),
    Command("export", "launcher.commands.export", "export_run", "Write a run's checkpoint as a Hugging Face folder."),
    Command(
        "import",
        "launcher.commands.import_huggingface",
        "import_huggingface",
        "Start a run from a Hugging Face folder.",
    ),
    Command(
        "checkpoint",
        "launcher.commands.checkpoint",
        "checkpoint_app",
        "List a run's checkpoints, and check every byte.",
    ),
    Command(
        "law", "launcher.commands.law.app", "law_app", "Fit loss laws to runs, forecast, choose schedules and sizes."
    ),
    Command(
        "config",
        "launcher.commands.config",
        "config_app",
        "List the keys of a config, print its JSON schema, resolve it, compare two.",
    ),
    Command(
        "doctor",
        "launcher.commands.doctor",
        "doctor",
        "Check what this machine has, and how to fix what is missing.",
        True,
    ),
)


HELP = "Pretrain transformers in any layout, and know the loss before the compute is spent."


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Returns the app with the command that the first argument names; the others are known by name and help only.

    Without arguments the app completes: a shell calls `lehr` alone, with the line that is typed in the environment.
    """
    app = typer.Typer(
        name="lehr",
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP)(_options)
    if not arguments:
        from launcher.completion import add_commands

        add_commands(app)
        return app
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for command in COMMANDS:
        found = getattr(importlib.import_module(command.module), command.attribute) if command.name == wanted else _stub
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=command.name, help=command.help)
        else:
            app.command(command.name, help=found.__doc__ if command.name == wanted else command.help)(found)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8; stderr does so already
    app = make_app(arguments)
    exit_by_exception()
    app(args=list(arguments), prog_name="lehr")


class _Commands(TyperGroup):
    """The commands of `lehr`. An error with an explanation, such as a user's mistake, ends any of them without a
    traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except Exception as error:
            from launcher.exit_codes import explain  # brings pydantic, which `lehr --help` does without

            if (code := explain(error)) is None:
                raise
            raise SystemExit(code) from None


def _quiet_libraries() -> None:
    """Silences notices that tell a user nothing.

    They are of optional extensions that are not installed, which `lehr doctor` reports, and of a checkpoint that is
    read without an exchange between ranks, as intended.
    """
    for notice in (
        "Transformer Engine and Apex are not installed",
        "Apex is not installed",
        "torch.distributed is disabled, unavailable or uninitialized, assuming the intent is to load",
    ):
        warnings.filterwarnings("ignore", message=notice, category=UserWarning)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|megatron|deepspeed)\b")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"lehr {version('lehr')}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Has the options of `lehr` itself, and is called before a command. The app has the help text."""
    if context.invoked_subcommand in {command.name for command in COMMANDS if not command.runs_on_ranks}:
        from launcher.processes.environment import check_single_process  # brings pydantic

        check_single_process(f"lehr {context.invoked_subcommand}")


def _stub() -> None:
    raise AssertionError("a command was run that is only known by name")
