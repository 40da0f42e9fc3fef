"""Declarations of a config key beside its type: whether its value may change when a run goes on.

    log_every_steps: int = Field(1, description="...", json_schema_extra=may_change("it is the console's"))

A section all of whose keys may change declares it once, in its own `model_config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from settings.errors import UserError
from settings.registry import MethodField, Registry

MAY_CHANGE = "may_change"
MAY_MOVE = "may_move"


def may_change(reason: str) -> JsonDict:
    """Declares, as `json_schema_extra`, that the value may change when a run goes on, because of `reason`."""
    return {MAY_CHANGE: reason}


def may_move(reason: str) -> JsonDict:
    """Declares, as `json_schema_extra`, a path that may change where the hashes of what it names are compared."""
    return {MAY_MOVE: reason}


def declared(schema: type[BaseModel], key: str, plain: object, *declarations: str) -> str | None:
    """Returns the reason that the dotted `key`, or a section around it, declares under one of `declarations`, or None.

    `plain` is a config as plain values: it names the methods, each of which declares its own keys.
    """
    for extra in _extras(schema, key.split("."), plain):
        for declaration in declarations:
            if isinstance(reason := extra.get(declaration), str):
                return reason
    return None


def _extras(schema: type[BaseModel], location: Sequence[str], plain: object) -> Iterator[Mapping[str, Any]]:
    """Yields what the sections and the fields on the way to `location` declare, from the outermost on."""
    found: tuple[Any, Sequence[Any]] = (schema, ())
    for part in location:
        annotation, metadata = found
        section = _section(annotation, metadata, plain)
        if section is not None:
            yield _mapping(section.model_config.get("json_schema_extra"))
            field = section.model_fields.get(part)
            if field is None:
                return
            yield _mapping(field.json_schema_extra)
            found = _unwrapped(field)
        else:
            found = _item(annotation)
        plain = _value(plain, part)


def _mapping(extra: object) -> Mapping[str, Any]:
    return extra if isinstance(extra, Mapping) else {}


def _unwrapped(field: FieldInfo) -> tuple[Any, Sequence[Any]]:
    return field.annotation, field.metadata


def _section(annotation: Any, metadata: Sequence[Any], plain: object) -> type[BaseModel] | None:
    """Returns the class of a section, or of the method that `plain` names; None for any other kind of value."""
    for item in metadata:
        if isinstance(item, MethodField):
            return _method(item.registry, plain) or annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if hasattr(annotation, "__metadata__"):
        return _section(get_args(annotation)[0], annotation.__metadata__, plain)
    if get_origin(annotation) in (tuple, list, dict):
        return None
    sections = (_section(inner, (), plain) for inner in get_args(annotation))
    return next((section for section in sections if section is not None), None)


def _method(registry: Registry[Any], plain: object) -> type[BaseModel] | None:
    name = plain.get("name") if isinstance(plain, Mapping) else plain
    try:
        return registry[name] if isinstance(name, str) else None
    except UserError:  # the method of another version, which is known no more
        return None


def _item(annotation: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the type of the items of a list or of the values of a mapping; also where either is optional."""
    if get_origin(annotation) in (tuple, list, dict):
        inner = [argument for argument in get_args(annotation) if argument is not Ellipsis]
        return (inner[-1] if inner else None), ()
    for argument in get_args(annotation):
        if get_origin(argument) in (tuple, list, dict):
            return _item(argument)
    return None, ()


def _value(plain: object, part: str) -> object:
    if isinstance(plain, Mapping):
        return plain.get(part)
    if isinstance(plain, list) and part.isdigit() and int(part) < len(plain):
        return plain[int(part)]
    return None
