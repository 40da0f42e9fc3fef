"""The JSON schema of the run config, made from its classes. Importing it brings torch."""

from __future__ import annotations

from typing import Any

from launcher.config_schema.schema import Schema
from launcher.run.config import RunConfig


def build_schema() -> Schema:
    """Returns the schema of all sections and registered methods, for editors and for `lehr config`."""
    plain = _without_titles(RunConfig.model_json_schema())
    assert isinstance(plain, dict)
    return Schema({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lehr run config", **plain})


def _without_titles(value: Any) -> Any:
    """pydantic titles every class and field with its own name, in other words."""
    if isinstance(value, list):
        return [_without_titles(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _without_titles(inner) for name, inner in item.items()}
        if key in ("properties", "$defs")
        else _without_titles(item)
        for key, item in value.items()
        if key != "title"
    }
