"""A YAML file and dotted overrides become one frozen config, or one message that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from settings.base import Settings
from settings.errors import UserError, nearest

S = TypeVar("S", bound=Settings)


def compose(schema: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Read `path`, apply overrides of the form `section.key=value`, validate.

    Raises UserError with one line per mistake: key, value, rule, what to do.
    """
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config {path} is not valid YAML: {_one_line(error)}") from None
    if not OmegaConf.is_dict(config):
        raise UserError(f"config {path} must hold sections (a mapping), not {type(config).__name__}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override {override!r} must have the form section.key=value")
        try:
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
            OmegaConf.update(config, key.strip(), value, merge=True, force_add=True)
        except (yaml.YAMLError, OmegaConfBaseException, IndexError, ValueError, TypeError) as error:
            raise UserError(f"override {override!r} cannot be applied: {_one_line(error)}") from None
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"config {path}: {_one_line(error)}") from None
    return parse(schema, plain, source=str(path))


def parse(schema: type[S], plain: object, *, source: str) -> S:
    """Validate plain data against a schema; `source` names where it came from in the message."""
    if not isinstance(plain, Mapping):
        raise UserError(f"{source}: must hold a mapping, not {type(plain).__name__}")
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        lines = list(dict.fromkeys(_describe(error, schema, ())))
        raise UserError("\n".join([f"{source}:", *(f"  {line}" for line in lines)])) from None


def to_yaml(settings: Settings) -> str:
    """The whole config as YAML that `compose` reads back to an equal config."""
    return yaml.safe_dump(settings.to_plain(), sort_keys=False, allow_unicode=True)


def _describe(error: ValidationError, schema: type[BaseModel], prefix: tuple[str | int, ...]) -> list[str]:
    lines: list[str] = []
    for item in error.errors():
        location = (*prefix, *item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ValidationError):  # a registered method's own config
            lines += _describe(cause, _schema_named(cause, schema), location)
            continue
        key = ".".join(str(part) for part in location) or "config"
        if item["type"] == "extra_forbidden":
            known = _fields_at(schema, item["loc"][:-1])
            lines.append(f"{key}: unknown key{nearest(str(location[-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{key}: is required")
        else:
            message = str(cause) if cause is not None else item["msg"][:1].lower() + item["msg"][1:]
            value = item["input"]
            shown = "" if isinstance(value, Mapping | BaseModel) else f" = {_shorten(repr(value))}"
            lines.append(f"{key}{shown}: {message}")
    return lines


def _schema_named(error: ValidationError, fallback: type[BaseModel]) -> type[BaseModel]:
    """The class whose validation failed: pydantic keeps only its name."""
    pending: list[type[BaseModel]] = [Settings]
    while pending:
        candidate = pending.pop()
        if candidate.__name__ == error.title:
            return candidate
        pending += candidate.__subclasses__()
    return fallback


def _fields_at(schema: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The known keys of the section at `location`, or none where it cannot be told."""
    current: Any = schema
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        if isinstance(part, int):
            continue
        if field is None:
            return []
        current = _model_in(field.annotation)
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The first Settings class in an annotation such as `tuple[Source, ...]` or `Source | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return _shorten(" ".join(str(error).split()), 300)


def _shorten(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
