"""The JSON schema of the run config, as an editor reads it, and as a file for what must not import the classes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.config_schema.schema import FILE, Schema
from launcher.run.config import RunConfig
from launcher.run.config_schema import build_schema
from optim.optimizer import OPTIMIZERS
from settings.declarations import MAY_CHANGE, MAY_MOVE, declared
from settings.differences import flatten

ROOT = Path(__file__).parents[3]
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def schema() -> Schema:
    return build_schema()


def mistakes(value: Any, node: Mapping[str, Any], at: str = "config") -> list[str]:
    """Returns what a validator of JSON schemas says, as far as this schema uses the language: an independent oracle."""
    found: list[str] = []
    if "$ref" in node:
        found += mistakes(value, schema().plain["$defs"][node["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in node and all(mistakes(value, kind, at) for kind in node["anyOf"]):
        found.append(f"{at}: none of the alternatives")
    if "enum" in node and value not in node["enum"]:
        found.append(f"{at}: {value!r} is no choice")
    if "const" in node and value != node["const"]:
        found.append(f"{at}: must be {node['const']}")
    if "type" in node:
        right = isinstance(value, bool) if node["type"] == "boolean" else isinstance(value, TYPES[node["type"]])
        if not right or (isinstance(value, bool) and node["type"] != "boolean"):
            return [*found, f"{at}: {value!r} is no {node['type']}"]
    if isinstance(value, dict):
        properties, others = node.get("properties", {}), node.get("additionalProperties", True)
        found += [f"{at}.{key}: is required" for key in node.get("required", ()) if key not in value]
        for key, inner in value.items():
            if key in properties:
                found += mistakes(inner, properties[key], f"{at}.{key}")
            elif others is False:
                found.append(f"{at}.{key}: unknown")
            elif isinstance(others, Mapping):
                found += mistakes(inner, others, f"{at}.{key}")
    if isinstance(value, list) and "items" in node:
        found += [line for number, item in enumerate(value) for line in mistakes(item, node["items"], f"{at}.{number}")]
        found += [f"{at}: too few"] if len(value) < node.get("minItems", 0) else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += [f"{at}: too small"] if value < node.get("minimum", value) else []
        found += [f"{at}: too large"] if value > node.get("maximum", value) else []
        found += [f"{at}: too small"] if "exclusiveMinimum" in node and value <= node["exclusiveMinimum"] else []
        found += [f"{at}: too large"] if "exclusiveMaximum" in node and value >= node["exclusiveMaximum"] else []
    if isinstance(value, str) and "pattern" in node and not re.search(node["pattern"], value):
        found.append(f"{at}: does not match")
    return found


def demo() -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    return plain


def test_a_real_config_and_its_resolved_form_are_valid() -> None:
    assert mistakes(demo(), schema().plain) == []
    assert mistakes(RunConfig.model_validate(demo()).to_plain(), schema().plain) == []


@pytest.mark.parametrize(
    ("section", "value", "valid"),
    [
        ("optim", "muon", True),  # a name alone: the lr may come from an override
        ("optim", "moun", False),
        ("optim", {"name": "conda", "lr": 0.01, "scale": 0.3}, True),
        ("optim", {"name": "adamw", "lr": 0.01, "scale": 0.3}, False),
        ("optim", {"lr": 0.01}, False),
        ("optim", {"name": "adamw", "lr": 0}, False),
        ("train", {"steps": 1, "seq_length": 8, "global_batch_size": 1, "spike": {}}, False),
        ("parallel", {"zero": 4}, False),
        ("run", {"name": "two words"}, False),
    ],
)
def test_mistakes_are_found_and_methods_are_alternatives_by_name(section: str, value: object, valid: bool) -> None:
    assert (mistakes({**demo(), section: value}, schema().plain) == []) is valid


def test_every_registered_method_is_there() -> None:
    assert tuple(schema().methods(schema().plain["properties"]["optim"])) == OPTIMIZERS.names()


def test_the_file_is_the_schema() -> None:
    assert FILE.read_text(encoding="utf-8") == schema().text(), "stale: run `make generated`"


@pytest.mark.slow
def test_no_method_needs_a_package_that_only_some_machines_have() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('triton', 'flash_attn', 'transformers', 'pytest')))"
    program = f"{absent}; from launcher.run.config_schema import build_schema; print(build_schema().text())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == schema().text().strip()


def test_the_schema_declares_what_the_classes_declare() -> None:
    plain = RunConfig.model_validate(demo()).to_plain()
    for key in flatten(plain):
        for declaration in (MAY_CHANGE, MAY_MOVE):
            assert schema().declared(key, plain, declaration) == declared(RunConfig, key, plain, declaration), key
