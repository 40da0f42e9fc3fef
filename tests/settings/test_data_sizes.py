"""Sizes of data in words."""

from __future__ import annotations

import pytest

from settings.data_sizes import format_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (20_300, "20.3 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (1_230_000_000, "1.2 GB"),
        (12e18, "12,000.0 PB"),
    ],
)
def test_a_size_has_the_unit_that_fits(size: float, text: str) -> None:
    assert format_size(size) == text
