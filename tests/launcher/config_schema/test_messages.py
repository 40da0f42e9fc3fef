"""A wrong value of any type at every key of the run config: each message names key and value, in YAML's words."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from launcher.config_schema.sections import Key, Section, sections
from launcher.run.config import RunConfig
from launcher.run.config_schema import build_schema
from settings import UserError, parse, read_yaml
from settings.mistakes import show_value

ROOT = Path(__file__).parents[3]
VALUES = ("~~ a word", -7.25, ["x"], None, {"a": 1}, True, 10**30)
# Words of Python and of pydantic that a user has not written.
PYTHONISMS = re.compile(
    r"\b(None|True|False|NoneType|dictionary|tuple|int|str|float|bool|dict|literal|regex|pydantic|PosixPath)\b"
    r"|<class|instance of|nput should|valid (integer|string|number)|type=|https://|lax-or|function-|\^\[|Error\b"
)


def with_value(base: dict[str, Any], section: Section, key: Key, value: object) -> tuple[dict[str, Any], str]:
    """Returns the config with the value at the key, in the section's method, and the key as it is named there."""
    plain = copy.deepcopy(base)
    path = key.name.replace("NAME", "mine").split(".")
    node: Any = plain
    for name, following in itertools.pairwise(path):
        if name == "N":
            continue
        if following == "N":
            node[name] = [{}]
            node = node[name][0]
        else:
            node[name] = node[name] if isinstance(node.get(name), dict) else {}
            node = node[name]
    if section.method is not None:
        node["name"] = section.method
    node[path[-1]] = value
    return plain, ".".join(path).replace(".N.", ".0.")


@pytest.mark.parametrize("value", VALUES, ids=[show_value(value) for value in VALUES])
def test_every_message_names_key_and_value_without_words_of_python(value: object) -> None:
    base = read_yaml(ROOT / "configs/demo.yaml")
    refused = 0
    for section in sections(build_schema()):
        for key in section.keys if isinstance(section, Section) else ():
            plain, name = with_value(base, section, key, value)
            try:
                parse(RunConfig, plain, source="config")
            except UserError as error:
                lines = str(error).splitlines()[1:]
                assert not [line for line in lines if PYTHONISMS.search(line)], lines
                about = [
                    line
                    for line in lines
                    if line.startswith(f"  {name}") and not re.search("is required|unknown key", line)
                ]
                refused += bool(
                    about
                )  # else the value is right, and other keys are missing or belong to no method here
                shown = [f" = {show_value(each)}" for each in (value, *(value if isinstance(value, list) else ()))]
                assert isinstance(value, dict) or all(any(one in line for one in shown) for line in about), lines
    assert refused > 30, "wrong values were taken"
