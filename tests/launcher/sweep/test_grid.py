"""The grid: its values are divided at commas outside brackets, and mistakes are named."""

from __future__ import annotations

import pytest

from launcher.sweep.grid import Axis, combinations, parse_axes
from settings import UserError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("optim.lr=1e-3,2e-3", ("1e-3", "2e-3")),
        ("optim.lr=1e-3", ("1e-3",)),
        ("schedule={name: wsd, min_lr: 0}, {name: cosine}", ("{name: wsd, min_lr: 0}", "{name: cosine}")),
        ("a.b=[1,[2,3]],[4]", ("[1,[2,3]]", "[4]")),
        ("a.b=\"x,y\",'{,'", ('"x,y"', "'{,'")),
        ("a.b=x=1,y=2", ("x=1", "y=2")),
    ],
)
def test_values(text: str, values: tuple[str, ...]) -> None:
    (axis,) = parse_axes([text])
    assert axis == Axis(text.partition("=")[0], values)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optim.lr"], "must have the form KEY=VALUE,VALUE"),
        (["=1"], "must have the form KEY=VALUE,VALUE"),
        (["optim.lr=1,,2"], "has an empty value"),
        (["optim.lr=1", "optim.lr=2"], "--grid optim.lr: is given 2 times"),
        (["run.seed=1,2"], "give --seeds N"),
        (["run.name=a,b"], "each point has a folder of its own"),
    ],
)
def test_mistakes(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_axes(texts)


def test_all_combinations_with_the_last_key_changing_first() -> None:
    found = [tuple(one.values()) for one in combinations(parse_axes(["a=1,2", "b=x,y"]))]
    assert found == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]
    assert list(combinations([])) == [{}]
