"""Makes one frozen config out of a YAML file and dotted overrides, or one message that lists the mistakes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from settings.base import Settings
from settings.errors import UserError, nearest
from settings.mistakes import KeyMistakeError, rule_of, show_value, without_alternatives
from settings.overrides import REMOVE, apply_override, changes, is_set_by, one_line
from settings.registry import InvalidMethodError

S = TypeVar("S", bound=Settings)


def compose(schema: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Reads `path`, applies overrides such as `section.key=value` and `~section.key`, and validates.

    Raises UserError with one line per mistake: key, value, rule, what to do. Mistakes in keys that an override sets are
    listed as such.
    """
    return parse(schema, read_yaml(path, overrides), source=str(path), overrides=overrides)


def read_yaml(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a YAML file as plain values, with overrides applied and `${section.key}` filled in. Raises UserError.

    With `path` None the overrides stand alone.
    """
    config = OmegaConf.create() if path is None else _load(path)
    for override in overrides:
        apply_override(config, override)
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{'overrides' if path is None else f'config {path}'}: {one_line(error)}") from None
    assert isinstance(plain, dict)
    return cast(dict[str, Any], plain)


def _load(path: Path) -> Any:
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config {path} is not valid YAML: {one_line(error)}") from None
    if not OmegaConf.is_dict(config):
        raise UserError(f"config {path} must hold sections, such as run: {{name: demo}}")
    return config


def parse(schema: type[S], plain: object, *, source: str, overrides: Sequence[str] = ()) -> S:
    """Validates plain values against a schema. Raises UserError; `source` says in its text where they came from.

    `overrides` are those that were applied: with them, an unknown key of the file may be one to remove.
    """
    if not isinstance(plain, Mapping):
        raise UserError(f"{source}: must hold a mapping of keys to values, not {show_value(plain)}")
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        mistakes = dict.fromkeys(_describe(error, schema, (), overrides))
        lines: dict[str, list[str]] = {}
        for key, line in mistakes:
            lines.setdefault(_origin(key, source, overrides), []).append(f"  {line}")
        raise UserError("\n".join(text for origin in lines for text in (f"{origin}:", *lines[origin]))) from None


def to_yaml(settings: Settings) -> str:
    """Returns the resolved config as YAML that `compose` reads back to an equal config."""
    # OmegaConf quotes text that its reader would take for a number (1e5, 12:30).
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(settings.to_plain()), flags={"allow_objects": False}))


def _escaped(value: Any) -> Any:
    """Escapes `${...}` in text that means itself."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
    if isinstance(value, Mapping):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def _origin(key: str, source: str, overrides: Sequence[str]) -> str:
    """Returns where the value of a key is from: the source, the overrides, or both if they set a part of it."""
    if any(is_set_by(key, override) or override == REMOVE + key for override in overrides):
        return "overrides"
    return f"{source} with overrides" if any(not key or changes(key, override) for override in overrides) else source


def _describe(
    error: ValidationError, schema: type[BaseModel], prefix: tuple[str | int, ...], overrides: Sequence[str]
) -> list[tuple[str, str]]:
    """Returns the key and the message of each mistake; the key of the whole config is ""."""
    lines: list[tuple[str, str]] = []
    for item in error.errors():
        location = (*prefix, *without_alternatives(item["loc"]))
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InvalidMethodError):
            lines += _describe(cause.error, cause.schema, location, overrides)
            continue
        key = ".".join(str(part) for part in location)
        name = key or "config"
        if item["type"] == "extra_forbidden":
            line = f"{name}: unknown key{nearest(str(location[-1]), _fields_at(schema, item['loc'][:-1]))}"
            if overrides and not any(is_set_by(key, override) for override in overrides):
                line += f"; the override {shlex.quote(REMOVE + key)} removes it"
        elif item["type"] == "missing":
            line = f"{name}: is required"
        elif isinstance(cause, KeyMistakeError):
            key = ".".join(map(str, (*location, cause.name)))
            line = f"{key} = {show_value(cause.value)}: {cause.rule}"
        elif numbers := _items_of_no_list(item, key, overrides):
            line = f"{name}.{numbers[0]}: the config has no such item; {name} is not given, so give the whole list"
        elif cause is not None:  # its text names the values
            shown = "" if isinstance(item["input"], Mapping | BaseModel) else f" = {show_value(item['input'])}"
            line = f"{name}{shown}: {cause}"
        else:
            line = f"{name} = {show_value(item['input'])}: "
            if lines and lines[-1][1].startswith(line):  # another alternative for the same value
                line = f"{lines.pop()[1]}, or {rule_of(item).removeprefix('must ')}"
            else:
                line += rule_of(item)
        lines.append((key, line))
    return lines


def _items_of_no_list(item: ErrorDetails, key: str, overrides: Sequence[str]) -> list[str]:
    """Returns the numbers of items that overrides set in a list that the config does not have."""
    if item["type"] not in ("list_type", "tuple_type") or not isinstance(item["input"], Mapping):
        return []
    numbers = [str(number) for number in item["input"] if str(number).isdecimal()]
    return [number for number in numbers if any(changes(f"{key}.{number}", override) for override in overrides)]


def _fields_at(schema: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Returns the known keys of the section at `location`, or none where there is no section."""
    current: Any = schema
    for part in location:
        current = _inside(current, part)
    model = _model_in(current)
    return list(model.model_fields) if model is not None else []


def _inside(annotation: Any, part: str | int) -> Any:
    """Returns the annotation of a field, of an item of a list, or of a value of a mapping."""
    model = _model_in(annotation)
    if model is not None and part in model.model_fields:
        return model.model_fields[str(part)].annotation
    if get_origin(annotation) in (tuple, list, dict):
        inner = [argument for argument in get_args(annotation) if argument is not Ellipsis]
        return inner[-1] if inner else None
    for argument in get_args(annotation):
        if found := _inside(argument, part):
            return found
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the Settings class in an annotation such as `Section`, `Section | None`, `Annotated[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, list, dict):
        return None
    return next((found for argument in get_args(annotation) if (found := _model_in(argument)) is not None), None)
