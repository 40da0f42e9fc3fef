"""The rules between rooms, and what no file may do, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What each room may import of the others. `settings` is the ground: it imports none, all may import it.
MAY_IMPORT = {
    "settings": set(),
    "schedules": set(),
    "model": set(),
    "optim": {"schedules"},
    "data": set(),
    "laws": {"schedules"},
    "parallel": {"model", "optim"},
    "train": {"parallel", "model", "optim", "data", "laws", "schedules"},
    "launcher": {"train", "parallel", "model", "optim", "data", "laws", "schedules"},
}
# Packages that a room must do without.
FORBIDDEN_PACKAGES = {
    "laws": {"torch", "megatron", "deepspeed"},
    "model": {"megatron", "deepspeed"},
    "data": {"megatron", "deepspeed"},
    "settings": {"torch", "megatron", "deepspeed", "numpy"},
    "schedules": {"torch", "megatron", "deepspeed", "scipy"},
}
MOST_LINES = 300
# Loaders that run what they load, and evaluation of text as code.
FORBIDDEN_CALLS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "yaml.load", "yaml.unsafe_load"}
FORBIDDEN_NAMES = {"eval", "exec"}

FILES = sorted(path.relative_to(ROOT) for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all imported modules and of what is imported from them, lazily imported ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`torch.load` of the node that says so; "" for anything but names and attributes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (prefix := dotted(node.value)):
        return f"{prefix}.{node.attr}"
    return ""


def mistakes(room: str, path: Path, text: str) -> list[str]:
    """Every rule that a file breaks."""
    tree = ast.parse(text)
    names = list(imported(tree))
    tops = {name.partition(".")[0] for name in names}
    found = [f"imports {other}" for other in (tops & set(MAY_IMPORT)) - MAY_IMPORT[room] - {room, "settings"}]
    found += [f"imports {package}" for package in tops & FORBIDDEN_PACKAGES.get(room, set())]
    if room == "model":
        found += [f"imports {name}" for name in names if name.startswith("torch.distributed")]
    reads_environment = any(
        dotted(node) in ("os.environ", "os.getenv", "os.environb") for node in ast.walk(tree)
    ) or any(name in ("os.environ", "os.getenv", "os.environb") for name in names)
    if reads_environment and path != Path("launcher/processes/environment.py"):
        found.append("reads the environment")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in FORBIDDEN_CALLS or called in FORBIDDEN_NAMES:
                found.append(f"line {node.lineno} calls {called}")
    found += [f"imports {name}" for name in names if name in FORBIDDEN_CALLS]
    if len(text.splitlines()) > MOST_LINES:
        found.append(f"has {len(text.splitlines())} lines, more than {MOST_LINES}")
    if path.name in ("utils.py", "helpers.py", "misc.py"):
        found.append("has a name that says nothing")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_keeps_the_rules(path: Path) -> None:
    assert mistakes(path.parts[0], path, (ROOT / path).read_text(encoding="utf-8")) == []


@cache
def modules() -> dict[str, set[str]]:
    """The modules of all rooms, by their dotted names, and the modules of rooms that each imports, lazily too."""
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    found = {}
    for name, path in names.items():
        said = set(imported(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
        packages = {wanted.rpartition(".")[0] for wanted in said if wanted not in names}
        found[name] = ((said | packages) & set(names)) - {name}
    return found


def part_of(module: str) -> str:
    """The sub-room that a module stands in (`train.checkpoint`), or the module itself where it is in none."""
    room, *inner = module.split(".")
    return f"{room}.{inner[0]}" if inner and (ROOT / room / inner[0]).is_dir() else module


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Returns the modules that cannot be put in an order in which every arrow leads down."""
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(modules()) == []


def test_the_benchmarks_import_no_circle() -> None:
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks").glob("*.py")}
    tops = {name: {module.partition(".")[0] for module in imported(tree)} for name, tree in trees.items()}
    assert circles({name: wanted & set(trees) for name, wanted in tops.items()}) == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_within_a_room_imports_run_down(room: str) -> None:
    arrows: dict[str, set[str]] = {}
    for module, wanted in modules().items():
        if module.partition(".")[0] == room:
            inside = {part_of(other) for other in wanted if other.startswith(f"{room}.")}
            arrows.setdefault(part_of(module), set()).update(inside - {part_of(module)})
    assert circles(arrows) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert part_of("train.checkpoint.writer") == part_of("train.checkpoint") == "train.checkpoint"
    assert part_of("train.loop") == "train.loop"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=str)
def test_a_room_says_what_lives_there(path: Path) -> None:
    said = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert said, f"{path} has no docstring"
    assert said.splitlines()[0].endswith("."), f"{path} says no sentence"


def test_every_folder_of_a_room_is_a_package() -> None:
    """setuptools finds packages by their __init__.py: a folder without one would be left out of what is installed."""
    assert {path.parent for path in FILES} == {path.parent for path in FILES if path.name == "__init__.py"}
    import tomllib

    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {pattern.removesuffix("*") for pattern in find["include"]} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("room", "code", "said"),
    [
        ("model", "from parallel.mesh import Mesh", "imports parallel"),
        ("model", "def f():\n    import data.batches.loader", "imports data"),
        ("model", "import torch.distributed as dist", "imports torch.distributed"),
        ("optim", "from model.layers import Layers", "imports model"),
        ("laws", "import torch", "imports torch"),
        ("schedules", "from laws.curve import LrCurve", "imports laws"),
        ("parallel", "import train.loop", "imports train"),
        ("train", "from launcher.run.config import RunConfig", "imports launcher"),
        ("train", "import os\nx = os.environ['A']", "reads the environment"),
        ("train", "from os import environ", "reads the environment"),
        ("train", "import os\nx = os.getenv('A')", "reads the environment"),
        ("train", "import torch\ntorch.load('x')", "calls torch.load"),
        ("train", "from torch import load", "imports torch.load"),
        ("data", "import yaml\nyaml.load('x', 1)", "calls yaml.load"),
        ("data", "x = eval('1')", "calls eval"),
        ("data", "import pickle\npickle.loads(b'')", "calls pickle.loads"),
        ("data", "\n" * 301, "more than 300"),
    ],
)
def test_the_rules_bite(room: str, code: str, said: str) -> None:
    assert any(said in mistake for mistake in mistakes(room, Path(room) / "x.py", code))


def test_what_the_rules_allow() -> None:
    code = "import yaml\nfrom settings import Settings\nyaml.safe_load('x')\nmodel.eval()\n"
    assert mistakes("train", Path("train/x.py"), "import model.layers\nimport parallel.mesh\n" + code) == []


def test_no_two_test_files_have_the_same_name() -> None:
    """pytest imports a test file by its name alone, and two of one name stop the collection."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
