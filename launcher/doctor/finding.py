"""One finding of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One result. `missing` keeps lehr from training on this machine; a `note` names a limitation."""

    name: str
    state: Literal["ok", "note", "missing"]
    result: str
    fix: str = ""
