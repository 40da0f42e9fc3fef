"""The differences of two nested values, and how they are listed."""

from __future__ import annotations

from settings.differences import ABSENT, differing, differing_sections, flatten, listed, show

OLD = {"a": {"x": 1, "y": [1, {"z": 2}]}, "gone": {"p": 1, "q": 2}, "same": {"s": 0}}
NEW = {"same": {"s": 0}, "a": {"x": 2, "y": [1, {"z": 3}, 4]}, "new": {}}


def test_nested_values_become_dotted_keys() -> None:
    assert flatten(OLD["a"]) == {"x": 1, "y.0": 1, "y.1.z": 2}
    assert flatten({"a": {}, "b": []}, "top") == {"top.a": {}, "top.b": []}
    assert flatten(3) == {"": 3}


def test_every_key_that_differs_with_both_values() -> None:
    assert differing(OLD, NEW) == {
        "a.x": (1, 2),
        "a.y.1.z": (2, 3),
        "a.y.2": (ABSENT, 4),
        "new": (ABSENT, {}),
        "gone.p": (1, ABSENT),
        "gone.q": (2, ABSENT),
    }
    assert differing(OLD, OLD) == {}
    assert differing({"a": None, "b": 1}, {"b": 1}) == {"a": (None, ABSENT)}


def test_lists_and_missing_sections_can_count_as_one_value() -> None:
    assert differing_sections(OLD, NEW, "data") == {
        "data.a.x": (1, 2),
        "data.a.y": (OLD["a"]["y"], NEW["a"]["y"]),
        "data.gone": (OLD["gone"], ABSENT),
        "data.new": (ABSENT, {}),
    }


def test_values_and_long_lists_are_shown() -> None:
    assert [show(value) for value in (ABSENT, None, "é", [1.5])] == ["absent", "null", '"é"', "[1.5]"]
    assert listed(["a", "b"], most=2) == "  a\n  b"
    assert listed(["a", "b", "c"], most=1, more="more keys") == "  a\n  and 2 more keys"
