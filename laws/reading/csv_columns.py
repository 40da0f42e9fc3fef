"""Columns of numbers from a CSV file with a header line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from laws.curve import Floats
from settings import UserError


def read_columns(path: Path, names: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, Floats]:
    """Reads the named columns, and the `optional` ones that there are. Raises UserError if a named one is missing."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    wanted = ", ".join(names)
    if not rows:
        raise UserError(f"{path}: holds no rows; it must have the columns {wanted}")
    columns: dict[str, Floats] = {}
    for name in (*names, *optional):
        if name not in rows[0]:
            if name in optional:
                continue
            raise UserError(f"{path}: has no column {name}; it must have {wanted} (it has {', '.join(rows[0])})")
        try:
            columns[name] = np.array([float(row[name]) for row in rows])
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: column {name} must hold numbers: {error}") from None
    return columns
