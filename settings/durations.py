"""Durations in words, for the console."""

from __future__ import annotations

_UNITS = (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600))


def format_duration(seconds: float) -> str:
    """Formats a duration by its two largest units: `5 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    name, size, smaller, smaller_size = next(unit for unit in reversed(_UNITS) if total >= unit[1])
    return f"{total // size} {name} {total % size // smaller_size} {smaller}"
