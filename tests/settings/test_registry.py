"""A method is one file: it is found without being named anywhere, and a wrong name has the nearest one as a hint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest

from settings import Registry, Settings, UserError

ROOM = """
from settings import Registry, Settings

class LampConfig(Settings):
    name: str

LAMPS = Registry("lamp", room="lamp_room", base=LampConfig)
"""
METHOD = """
from typing import Literal
from lamp_room.lamps import LAMPS, LampConfig

@LAMPS.register
class {title}Config(LampConfig):
    name: Literal["{name}"] = "{name}"
    oil: float = 1.0
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lamp_room"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "lamps.py").write_text(ROOM)
    (folder / "storm.py").write_text(METHOD.format(title="Storm", name="storm"))
    (folder / "_draft.py").write_text("raise AssertionError('a private module is not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("lamp_room")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_a_file_dropped_into_the_room_is_found(room: Path) -> None:
    (room / "miners.py").write_text(METHOD.format(title="Miners", name="miners"))
    from lamp_room.lamps import LAMPS  # type: ignore[import-not-found]

    assert LAMPS.names() == ("miners", "storm")
    assert LAMPS.parse("miners").oil == 1.0
    assert LAMPS.parse({"name": "storm", "oil": 2}).oil == 2.0
    lamp = LAMPS["storm"](oil=3)
    assert LAMPS.parse(lamp) is lamp


def test_a_method_in_a_file_of_its_name_brings_no_other(room: Path) -> None:
    """Another file may import what takes seconds, or what is not installed."""
    (room / "ancient.py").write_text("raise ImportError('the oil press is missing')")
    from lamp_room.lamps import LAMPS

    assert LAMPS.parse("storm").oil == 1.0
    assert LAMPS["storm"] is LAMPS["storm"]
    with pytest.raises(ImportError, match="oil press"):
        LAMPS.names()


def test_an_unknown_name_has_the_nearest(room: Path) -> None:
    from lamp_room.lamps import LAMPS

    with pytest.raises(UserError, match=r'no lamp is called "strom"; did you mean "storm"\?'):
        LAMPS["strom"]


class Base(Settings):
    """The base of the two methods below."""

    name: str


def test_two_methods_of_one_name_are_our_bug() -> None:
    registry = Registry("method", room="settings", base=Base)

    class One(Base):
        name: Literal["one"] = "one"

    class Other(Base):
        name: Literal["one"] = "one"

    registry.register(One)
    with pytest.raises(TypeError, match="two methods are called one: "):
        registry.register(Other)


def test_a_method_of_another_kind_is_our_bug() -> None:
    registry = Registry("method", room="settings", base=Base)

    class Stranger(Settings):
        name: Literal["stranger"] = "stranger"

    with pytest.raises(TypeError, match="Stranger is registered as a method but is no Base"):
        registry.register(Stranger)  # type: ignore[type-var]


def test_a_method_without_a_name_is_our_bug() -> None:
    registry = Registry("method", room="settings", base=Base)

    class Nameless(Base):
        name: Literal["nameless"]

    with pytest.raises(TypeError, match="Nameless needs a name with a default"):
        registry.register(Nameless)
