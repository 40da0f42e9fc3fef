"""The base of every section of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Frozen and typed; an unknown key is an error. Validators check, they never change a value."""

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
    def _yes_is_no_number(cls, values: Any) -> Any:
        """pydantic takes true for 1; in a config it is a slip."""
        if isinstance(values, Mapping):
            for name, field in cls.model_fields.items():
                if isinstance(values.get(name), bool) and field.annotation in (int, float, int | None, float | None):
                    raise ValueError(f"{name} = {str(values[name]).lower()} must be a number")
        return values

    def to_plain(self) -> dict[str, Any]:
        """The same values as dicts, lists, strings, numbers: what YAML and JSON can hold."""
        return self.model_dump(mode="json", serialize_as_any=True)
