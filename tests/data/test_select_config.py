"""Mistakes in `data.select` are one clear message before any work starts."""

from __future__ import annotations

from typing import Any

import pytest

from data.config import DataConfig
from settings import UserError, parse

SOURCES = {"books": {"name": "text", "paths": ["."]}}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"selector": "randum"}, 'no selector is called "randum"; did you mean "random"'),
        ({"selector": "random", "choose": "bytes"}, "choose = bytes needs an amount"),
        ({"selector": "random", "amount": 3}, "choose = none takes no amount"),
        ({"selector": "random", "choose": "threshold"}, "threshold is given with choose = threshold, and only then"),
        ({"selector": "random", "choose": "share", "amount": 20}, "amount = 20 must be at most 1"),
        ({"selector": "random", "choose": "documents", "amount": 1.5}, "amount = 1.5 must be a whole number"),
        ({"selector": "random", "choose": "tokens", "amount": 9}, "choose = tokens needs tokenizer.path"),
        ({"selector": "random", "choose": "threshold", "threshold": 0.5, "skip": 0.1}, "takes no temperature, skip"),
        ({"selector": "dsir"}, "selector = dsir compares with targets"),
        ({"selector": {"name": "same_sources", "of": "dsir"}}, "selector = same_sources compares with targets"),
        ({"selector": "random", "target": {}}, "exactly one of source, from_source and documents; none is given"),
        ({"selector": "random", "target": {"from_source": "book"}}, 'no source is called "book"; did you mean "books"'),
        ({"selector": {"name": "mean_rank", "of": ["random"]}}, "of"),
        (
            {"selector": {"name": "same_sources", "of": {"name": "length_matched", "of": "random"}}},
            "of = length_matched imitates another selector itself",
        ),
    ],
)
def test_a_mistake_is_named(select: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="select") as caught:
        parse(DataConfig, {"shards": "x", "sources": SOURCES, "select": select}, source="config.yaml")
    assert message in str(caught.value)


def test_the_folder_of_the_record_is_no_source() -> None:
    plain = {"shards": "x", "sources": {"selection": SOURCES["books"]}, "select": {"selector": "random"}}
    with pytest.raises(UserError, match='"selection" is the folder of the selection\'s record'):
        parse(DataConfig, plain, source="config.yaml")
