"""The base of every section of a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from settings.errors import UserError
from settings.mistakes import KeyMistakeError


class Settings(BaseModel):
    """A frozen, typed section. An unknown key is an error; validators check and never change a value.

    The one exception is `~` at the beginning of a path: it means the home folder, as in a shell.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        arbitrary_types_allowed=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, values: Any) -> Any:
        """Refuses what pydantic would accept: true for 1, integers over 64 bits, paths that no file can have."""
        if isinstance(values, Mapping):
            for name, field in cls.model_fields.items():
                value = values.get(name)
                if isinstance(value, bool) and field.annotation in (int, float, int | None, float | None):
                    raise KeyMistakeError(name, value, "must be a number")
                if isinstance(value, int) and not -(2**63) <= value < 2**63:
                    raise KeyMistakeError(name, value, "must be a number of at most 64 bits")
                if _takes_path(field.annotation) and isinstance(value, str):
                    if "\0" in value:
                        raise KeyMistakeError(name, value, "must not hold a null character")
                    values = {**values, name: expand_home(value, key=name)}
        return values

    def to_plain(self) -> dict[str, Any]:
        """Returns the values as dicts, lists, strings and numbers, which YAML and JSON can hold."""
        return self.model_dump(mode="json", serialize_as_any=True)


def expand_home(path: str, *, key: str) -> str:
    """Returns a path with its leading `~` or `~user` replaced by the home folder. Raises UserError if there is none."""
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = path.partition("/")[0]
        raise UserError(f"{key} = {path}: {user} has no home folder here; write ./{user} for a folder of that name")
    return expanded


def _takes_path(annotation: Any) -> bool:
    return annotation is Path or Path in get_args(annotation)
