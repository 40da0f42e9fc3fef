"""Completes commands, options, config keys and registered names, without the imports of a command.

Typer asks the app for completions, and an app with real commands would first import what they need, torch among it. So
the app that answers is made from two files: this package's command_index.json has the commands with their options, and
config_schema/config_schema.json the config keys.

    make generated     # writes both, after a change of a command's options or of a config key
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from launcher.config_schema.overrides import complete_override

FILE = Path(__file__).with_name("command_index.json")

Entry = Mapping[str, Any]


def add_commands(app: typer.Typer) -> None:
    """Give an app all commands of the file: they complete, and do not run."""
    _add(app, json.loads(FILE.read_text(encoding="utf-8")))


def _add(app: typer.Typer, entries: Mapping[str, Entry]) -> None:
    for name, entry in entries.items():
        if "commands" in entry:
            group = typer.Typer(add_completion=False)
            _add(group, entry["commands"])
            app.add_typer(group, name=name, help=entry["help"])
        else:
            app.command(name, help=entry["help"])(_function(entry["parameters"]))


def _function(parameters: list[Entry]) -> Callable[..., None]:
    """Returns a function with these parameters, as typer reads them: it has their annotations and does nothing."""

    def command(**values: object) -> None:
        raise AssertionError("a command that only completes was run")

    signature = [_signature(f"parameter_{number}", entry) for number, entry in enumerate(parameters)]
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    return command


def _signature(name: str, entry: Entry) -> inspect.Parameter:
    if entry["kind"] == "option":
        kind = bool if entry["flag"] else str
        annotation: Any = Annotated[kind, typer.Option(*entry["names"], help=entry["help"])]
        default = False if entry["flag"] else None
    else:
        many = list[str] if entry["many"] else str
        complete = complete_override if entry["overrides"] else None
        annotation = Annotated[many, typer.Argument(help=entry["help"], autocompletion=complete)]
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
