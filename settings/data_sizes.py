"""Sizes of data in words, for the console and for reports."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_size(size: float) -> str:
    """Formats a number of bytes in decimal units: `812 bytes`, `1.5 kB`, `20.0 MB`, `1.2 GB`."""
    if size < 999.5:
        return f"{size:.0f} byte{'' if size == 1 else 's'}"
    power = 0
    while (size := size / 1000) >= 999.95 and power < len(_UNITS) - 1:
        power += 1
    return f"{size:,.1f} {_UNITS[power]}"
