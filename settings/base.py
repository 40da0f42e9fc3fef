"""The base of every section of a config."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


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

    def to_plain(self) -> dict[str, Any]:
        """The same values as dicts, lists, strings, numbers: what YAML and JSON can hold."""
        return self.model_dump(mode="json", serialize_as_any=True)
