"""`lehr config`: the keys of a run config, their JSON schema, a resolved config, and where two configs differ."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from launcher.commands.arguments import OverridesArgument
from launcher.exit_codes import FAILED
from settings import UserError

config_app = typer.Typer(no_args_is_help=True, help="List the keys of a config, resolve one, compare two.")


@config_app.command("keys")
def list_keys(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="[SECTION|WORD]",
            help="A section such as train, a method such as optim.conda, a key, or a word that names and descriptions "
            "are searched for; everything if it is not given.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/config.md.")] = False,
) -> None:
    """List keys with their type, rule, default and meaning, and whether they may change when a run goes on."""
    from launcher.config_schema.listing import find, page, text
    from launcher.config_schema.sections import sections
    from launcher.run.config_schema import build_schema

    parts = sections(build_schema())
    if word is not None:
        parts = find(parts, word)
    if markdown:
        print(page(parts), end="")
        return
    print(text(parts, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


@config_app.command("schema")
def print_schema() -> None:
    """Print a JSON schema of the run config, for editors.

    With yaml-language-server, the first line of a config names the file:
    # yaml-language-server: $schema=config_schema.json
    """
    from launcher.run.config_schema import build_schema

    print(build_schema().text(), end="")


@config_app.command("show")
def show_config(
    config: Annotated[Path, typer.Argument(help="a run config, a YAML file", show_default=False)],
    overrides: OverridesArgument = None,
) -> None:
    """Print the resolved config as YAML: every key with its value, defaults filled in. lehr reads it back."""
    from launcher.run.config import load_run_config
    from settings import to_yaml

    print(to_yaml(load_run_config(config, overrides or [])), end="")


@config_app.command("diff")
def compare_configs(
    one: Annotated[Path, typer.Argument(metavar="A", help="a run config, or a run folder", show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="B", help="a run config, or a run folder", show_default=False)],
) -> None:
    """List the keys whose values differ between two resolved configs, with both values, `absent` for none.

    Paths are compared as absolute ones.

    Exit codes: 0 the configs are equal; 1 they differ; 2 one of them is missing or has a mistake.
    """
    from launcher.run.config import load_run_config
    from settings.differences import differing, show
    from settings.paths import with_absolute_paths

    plain = [with_absolute_paths(load_run_config(_config_file(path))).to_plain() for path in (one, other)]
    pairs = differing(*plain)
    for key, pair in pairs.items():
        print(f"{key}: {show(pair.old)} in {one}, {show(pair.new)} in {other}")
    if pairs:
        raise SystemExit(FAILED)


def _config_file(path: Path) -> Path:
    """Returns the config itself, or that of a run folder. Raises UserError where a folder has none."""
    if not path.is_dir():
        return path
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml")
    return path / "config.yaml"
