"""Writes the content of command_index.json: the commands with their options, as completion reads them.

`make generated` runs it. It imports all commands.
"""

from __future__ import annotations

import json
from typing import Any

import typer

from launcher.cli import COMMANDS, make_app
from launcher.completion import Entry

_OVERRIDES = "KEY=VALUE"  # in the usage of an argument that takes overrides


def command_index() -> dict[str, Entry]:
    """Returns the content of the file, from the commands themselves. It imports them all."""
    apps = {command.name: typer.main.get_command(make_app([command.name])) for command in COMMANDS}
    helps = {command.name: command.help for command in COMMANDS}  # as in `lehr --help`
    return {name: {**_entry(app.commands[name]), "help": helps[name]} for name, app in apps.items()}  # type: ignore[attr-defined]


def _entry(command: Any) -> Entry:
    help_text = (command.help or "").partition("\n")[0]
    if hasattr(command, "commands"):
        return {"help": help_text, "commands": {name: _entry(inner) for name, inner in command.commands.items()}}
    return {"help": help_text, "parameters": [_parameter(param) for param in command.params]}


def _parameter(param: Any) -> Entry:
    text = " ".join((param.help or "").split())
    if param.param_type_name == "option":
        names = [*param.opts, *param.secondary_opts]
        return {"kind": "option", "names": names, "flag": bool(param.is_flag), "help": text}
    overrides = _OVERRIDES in (param.metavar or "")
    return {"kind": "argument", "name": param.name, "many": param.nargs == -1, "overrides": overrides, "help": text}


if __name__ == "__main__":
    print(json.dumps(command_index(), indent=1, ensure_ascii=False))
