"""Reads a JSON schema: what stands at a dotted key. Imports nothing that takes long.

`config_schema.json` beside this file is the schema of the run config as `lehr config schema` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("config_schema.json")
ITEM, NAME = "N", "NAME"  # stand in a key for the number of an item and for a name that the user chooses

Node = Mapping[str, Any]


class Schema:
    """A JSON schema, with its references followed."""

    def __init__(self, plain: Node) -> None:
        self.plain = plain

    @classmethod
    def read(cls) -> Schema:
        """Returns the schema in the file."""
        return cls(json.loads(FILE.read_text(encoding="utf-8")))

    def text(self) -> str:
        """Returns the file's content."""
        return json.dumps(self.plain, indent=1, ensure_ascii=False) + "\n"

    def follow(self, node: Node) -> Node:
        """Returns the definition that a node refers to; what stands beside the reference takes precedence."""
        if "$ref" not in node:
            return node
        definition = self.plain["$defs"][node["$ref"].rpartition("/")[2]]
        return {**definition, **{key: value for key, value in node.items() if key != "$ref"}}

    def alternatives(self, node: Node) -> list[Node]:
        """Returns the kinds of value that a node takes: several for an optional value, and for a method."""
        node = self.follow(node)
        if "anyOf" not in node:
            return [node]
        return [alternative for inner in node["anyOf"] for alternative in self.alternatives(inner)]

    def methods(self, node: Node) -> dict[str, Node]:
        """Returns the methods that a node takes, by name; none where it takes no method."""
        return {name: kind for kind in self.alternatives(node) if (name := method_name(kind)) is not None}

    def inside(self, node: Node, part: str, plain: object = None) -> Iterator[Node]:
        """Yields what may stand at `part` of a section, list or mapping; if `plain` names a method, only its keys."""
        kinds = self.alternatives(node)
        named = plain.get("name") if isinstance(plain, Mapping) else plain
        if any(method_name(kind) == named for kind in kinds) and isinstance(named, str):
            kinds = [kind for kind in kinds if method_name(kind) == named]
        for kind in kinds:
            if part in (properties := kind.get("properties", {})):
                yield properties[part]
            elif isinstance(values := kind.get("additionalProperties"), Mapping):
                yield values
            elif isinstance(items := kind.get("items"), Mapping) and (part.isdigit() or part == ITEM):
                yield items

    def declared(self, key: str, plain: object, declaration: str) -> str | None:
        """Returns the reason with which a dotted key, or a section around it, makes a declaration; None if none does.

        The same as `settings.declarations.declared`, for what cannot wait until the classes are imported.
        """
        nodes: list[Node] = [self.plain]
        for part in key.split("."):
            nodes = [inner for node in nodes for inner in self.inside(node, part, plain)]
            plain = _value(plain, part)
            for kind in (kind for node in nodes for kind in (self.follow(node), *self.alternatives(node))):
                if isinstance(reason := kind.get(declaration), str):
                    return reason
        return None


def yaml_word(value: object) -> str:
    """Returns a choice of a key as YAML writes it: a text without quotes, and true or false."""
    return value if isinstance(value, str) else json.dumps(value)


def method_name(kind: Node) -> str | None:
    """Returns the name of the method whose keys these are; None for any other kind of value."""
    name = kind.get("properties", {}).get("name", {}).get("const")
    return name if isinstance(name, str) else None


def _value(plain: object, part: str) -> object:
    if isinstance(plain, Mapping):
        return plain.get(part)
    return plain[int(part)] if isinstance(plain, list) and part.isdigit() and int(part) < len(plain) else None
