"""Completes overrides (`optim.l`, `optim.name=co`) from the schema in the file, so that TAB waits for no import."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import typer

from launcher.config_schema.schema import Node, Schema, yaml_word


def complete_override(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Returns the continuations of an override with their help, for typer's `autocompletion`.

    bash takes `=` for a word of its own: of the words `optim.name`, `=` and `co` the last is completed to `conda`. With
    nothing behind the `=`, typer has dropped it, and the word before is the key.
    """
    before = [word for words in ctx.params.values() if isinstance(words, list | tuple) for word in words]
    schema = Schema.read()
    waiting = not incomplete and before and "=" not in before[-1] and before[-2:-1] != ["="]
    if waiting and (values := list(_values(schema, before[-1], ""))):
        return values
    if len(before) > 1 and before[-1] == "=":
        return list(_values(schema, before[-2], incomplete))
    if incomplete.startswith("~"):  # the override that removes a key
        return [(f"~{key.removesuffix('=')}", said) for key, said in _keys(schema, incomplete[1:])]
    key, equals, value = incomplete.partition("=")
    if equals:
        return [(f"{key}={each}", said) for each, said in _values(schema, key, value)]
    found = list(_keys(schema, key))
    if len(found) == 1:  # shells put a space behind what is the only one, where a key wants to go on
        ((only, _),) = found
        if only.endswith("."):
            return list(_keys(schema, only))
        found += [(f"{only}{each}", said) for each, said in _values(schema, only.removesuffix("="), "")]
    return found


def _keys(schema: Schema, key: str) -> Iterator[tuple[str, str]]:
    """Returns the keys of the section that is typed so far: `optim.` and all that `optim` has."""
    section, dot, beginning = key.rpartition(".")
    found: dict[str, str] = {}
    for node in _nodes(schema, section):
        for kind in schema.alternatives(node):
            for name, inner in kind.get("properties", {}).items():
                if name.startswith(beginning):
                    found.setdefault(f"{section}{dot}{name}", _help(schema, inner))
    for name, said in found.items():
        nested = any("properties" in kind for node in _nodes(schema, name) for kind in schema.alternatives(node))
        methods = any(schema.methods(node) for node in _nodes(schema, name))
        if nested:
            yield f"{name}.", said
        if methods or not nested:
            yield f"{name}=", said


def _values(schema: Schema, key: str, beginning: str) -> Iterator[tuple[str, str]]:
    """Returns the values of a key where they are known: registered names, choices, true and false, or the default."""
    parent, _, last = key.rpartition(".")
    found: dict[str, str] = {}
    for node in _nodes(schema, key):
        for kind in schema.alternatives(node):
            if kind.get("type") == "boolean":
                found |= {"true": "", "false": ""}
            found |= {yaml_word(choice): "" for choice in kind.get("enum", ()) if not schema.methods(node)}
            found |= {"null": ""} if kind.get("type") == "null" else {}
        found |= {name: _first_line(kind) for name, kind in schema.methods(node).items()}
        default = schema.follow(node).get("default")
        if isinstance(default, int | float | str) and not isinstance(default, bool) and default != "":
            found.setdefault(default if isinstance(default, str) else json.dumps(default), "default")
    if last == "name":
        for node in _nodes(schema, parent):
            found |= {name: _first_line(kind) for name, kind in schema.methods(node).items()}
    yield from ((value, said) for value, said in found.items() if value.startswith(beginning))


def _nodes(schema: Schema, key: str) -> list[Node]:
    """Returns what may stand at a dotted key."""
    nodes: list[Node] = [schema.plain]
    for part in key.split(".") if key else ():
        nodes = [inner for node in nodes for inner in schema.inside(node, part)]
    return nodes


def _help(schema: Schema, node: Node) -> str:
    return str(schema.follow(node).get("description", ""))


def _first_line(kind: Mapping[str, object]) -> str:
    return str(kind.get("description", "")).partition("\n")[0]
