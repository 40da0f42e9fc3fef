"""The sections of a JSON schema and their keys, in a user's words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from launcher.config_schema.schema import ITEM, NAME, Node, Schema, method_name, yaml_word

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true/false"}
_TYPES |= {"null": "null", "object": "mapping"}
_REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """One key, as text."""

    name: str  # dotted, from the top of the config
    type: str
    rule: str  # empty where every value of the type is allowed
    default: str | None  # None: the key is required
    description: str
    may_change: str  # the reason why it may change when a run goes on; empty where it may not


@dataclass(frozen=True)
class Section:
    """A section, or the keys of one method."""

    path: str
    method: str | None
    of: tuple[str, ...]  # the outer methods that have this section; empty where all do
    description: str
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        """The path and the method: `optim.conda`."""
        return self.path if self.method is None else f"{self.path}.{self.method}"


@dataclass(frozen=True)
class Methods:
    """A place that takes one of several methods."""

    path: str
    description: str
    names: dict[str, str]  # and the first sentence about each
    listed_at: str | None  # where the same methods have been listed before


def sections(schema: Schema) -> list[Section | Methods]:
    """Returns all sections. A section that several methods share stands once, as do methods of two places."""
    walked = list(_walk(schema, schema.plain, "", {}, "", ()))
    home: dict[tuple[str, ...], str] = {}  # the shortest path at which methods stand
    for part in walked:
        if isinstance(part, Methods):
            known = home.setdefault(tuple(part.names), part.path)
            home[tuple(part.names)] = min(known, part.path, key=len)
    away = {part.path: home[tuple(part.names)] for part in walked if isinstance(part, Methods)}
    found: list[Section | Methods] = []
    for part in walked:
        if isinstance(part, Methods):
            part = replace(part, listed_at=away[part.path] if away[part.path] != part.path else None)
            if part not in found:
                found.append(part)
        elif part.method is None or away[part.path] == part.path:
            same = next((old for old in found if isinstance(old, Section) and replace(old, of=part.of) == part), None)
            if same is None:
                found.append(part)
            else:
                found[found.index(same)] = replace(same, of=(*same.of, *part.of))
    return found


def _walk(
    schema: Schema, node: Node, path: str, default: object, may_change: str, of: tuple[str, ...], about: str = ""
) -> Iterator[Section | Methods]:
    """Returns a section with what is in it.

    `default`: the section's own, which precedes the defaults of its class. `about`: the description of the key.
    """
    if methods := schema.methods(node):
        lines = {name: _first_sentence(kind.get("description", "")) for name, kind in methods.items()}
        yield Methods(path, about, lines, None)
    for kind in schema.alternatives(node):
        properties = kind.get("properties", {})
        if not properties:
            continue
        method = method_name(kind)
        defaults = default if isinstance(default, Mapping) and default.get("name") == method else {}
        inner_of = (method,) if method else of
        reason = may_change or kind.get("may_change", "")
        keys = {
            name: _key(schema, inner, f"{path}.{name}".lstrip("."), defaults.get(name, _REQUIRED), reason)
            for name, inner in properties.items()
            if name != "name" or method is None
        }
        if path:
            own = tuple(key for key in keys.values() if key.type)
            yield Section(path, method, () if method else of, kind.get("description", ""), own)
        for name, inner in properties.items():
            where = f"{path}.{name}".lstrip(".")
            inner_default = defaults.get(name, schema.follow(inner).get("default"))
            for place, item in _places(schema, inner, where):
                about = keys[name].description if name in keys else ""
                yield from _walk(schema, item, place, inner_default, _reason(schema, inner, reason), inner_of, about)


def _places(schema: Schema, node: Node, where: str) -> Iterator[tuple[str, Node]]:
    """Returns where sections stand at or within a key: itself, the items of a list, the values of a mapping."""
    if any("properties" in kind for kind in schema.alternatives(node)):
        yield where, node
    for kind in schema.alternatives(node):
        for part, name in (("items", ITEM), ("additionalProperties", NAME)):
            inner = kind.get(part)
            if isinstance(inner, Mapping) and any("properties" in each for each in schema.alternatives(inner)):
                yield f"{where}.{name}", inner


def _key(schema: Schema, node: Node, name: str, default: object, may_change: str) -> Key:
    full = schema.follow(node)
    value = full.get("default", _REQUIRED) if default is _REQUIRED else default
    kinds = schema.alternatives(node)
    rules = [rule for kind in kinds if (rule := _rule(kind))]
    text = None if value is _REQUIRED else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping) and any("properties" in kind for kind in kinds):
        text = str(value["name"]) if schema.methods(node) else "the defaults of its keys"
    reason = _reason(schema, node, may_change)
    return Key(name, _type(schema, node), "; ".join(rules), text, full.get("description", ""), reason)


def _reason(schema: Schema, node: Node, around: str) -> str:
    return str(around or schema.follow(node).get("may_change", ""))


def _type(schema: Schema, node: Node) -> str:
    """Returns the type in words: `integer or null`, `list of text`, `one of "none", "full"`."""
    if methods := schema.methods(node):
        optional = " or null" if any(kind.get("type") == "null" for kind in schema.alternatives(node)) else ""
        return f"a method, one of {', '.join(methods)}{optional}"
    return " or ".join(dict.fromkeys(_kind(schema, kind) for kind in schema.alternatives(node)))


def _kind(schema: Schema, kind: Node) -> str:
    if "properties" in kind:
        return "section"
    if "enum" in kind:
        return f"one of {', '.join(map(yaml_word, kind['enum']))}"
    if "const" in kind:
        return str(kind["const"])
    if kind.get("format") == "path":
        return "path"
    if isinstance(items := kind.get("items"), Mapping):
        return f"list of {_plural(_type(schema, items))}"
    if isinstance(values := kind.get("additionalProperties"), Mapping):
        return f"mapping of names to {_plural(_type(schema, values))}"
    return _TYPES[kind["type"]]


def _plural(words: str) -> str:
    if words.startswith("a method, one of "):
        return f"methods, each {words.removeprefix('a method, ')}"
    return {"integer": "integers", "number": "numbers", "text": "texts", "section": "sections"}.get(words, words)


def _rule(kind: Node) -> str:
    """Returns the rule in words: `at least 1`, `between 0 and 0.5`, `above 0`."""
    low, high = kind.get("minimum"), kind.get("maximum")
    parts = [f"between {low:g} and {high:,}"] if low is not None and high is not None else []
    if not parts:
        parts += [f"at least {low:g}"] if low is not None else []
        parts += [f"at most {high:,}"] if high is not None else []
    parts += [f"above {kind['exclusiveMinimum']:g}"] if "exclusiveMinimum" in kind else []
    parts += [f"below {kind['exclusiveMaximum']:,}"] if "exclusiveMaximum" in kind else []
    parts += [f"at least {kind['minItems']} of them"] if "minItems" in kind else []
    parts += [f"matches {kind['pattern']}"] if "pattern" in kind else []
    return ", ".join(parts)


def _first_sentence(text: str) -> str:
    """Returns the first paragraph of a docstring, in one line."""
    return " ".join(text.partition("\n\n")[0].split())
