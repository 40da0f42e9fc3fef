"""The sample of `lehr data inspect` is text, which a terminal does not obey."""

from __future__ import annotations

import pytest

from data.shards.inspect import without_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone\x07", "\\x1b[2Jgone\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb", "a\\rb"),
        ("\u202eback", "\\u202eback"),
        ("line\n\ttab", "line\n\ttab"),
        ("Ünïcödé 日本語 👩‍💻", "Ünïcödé 日本語 👩‍💻"),
    ],
)
def test_control_characters_are_spelled(text: str, shown: str) -> None:
    assert without_controls(text) == shown
