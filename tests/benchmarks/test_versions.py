"""The sets of packages that `make test-versions` installs, and the tested set within the declared ranges."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from versions import at_lower_bound, requirements

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"


def test_a_requirement_at_its_lower_bound() -> None:
    assert at_lower_bound("torch>=2.13.0,<3") == "torch==2.13.0"
    assert at_lower_bound("datatrove[io,processing]>=0.10.1,<0.11") == "datatrove[io,processing]==0.10.1"
    with pytest.raises(ValueError, match="'adamp' has no lower bound"):
        at_lower_bound("adamp")


def test_the_oldest_set_pins_every_dependency() -> None:
    oldest, newest = requirements(PYPROJECT, "oldest"), requirements(PYPROJECT, "newest")
    assert len(oldest) == len(newest)
    names = {Requirement(each).name for each in oldest}
    assert {"torch", "numpy", "megatron-core", "pytest", "transformers"} <= names
    assert not {"ruff", "mypy", "types-psutil", "scipy-stubs"} & names
    for old, new in zip(oldest, newest, strict=True):
        if old != new:
            (pin,) = Requirement(old).specifier
            assert pin.version in Requirement(new).specifier


def test_the_tested_set_lies_within_the_declared_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    for each in map(Requirement, requirements(PYPROJECT, "newest")):
        assert pins[each.name.lower()] in each.specifier, each
