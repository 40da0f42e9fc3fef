"""The parts whose times benchmarks/rehearse.py measures are functions of lehr."""

from __future__ import annotations

from pkgutil import resolve_name

import pytest
from rehearse import PARTS


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_a_function(name: str) -> None:
    assert callable(resolve_name(name))
