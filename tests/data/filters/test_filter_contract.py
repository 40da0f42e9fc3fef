"""The contract of filters, tested on every example of every registered filter."""

from __future__ import annotations

import dill
import pytest
from datatrove.data import Document
from filter_texts import ARTICLE, ODD

from data.filters import FILTERS, FilterConfig
from settings import UserError


@pytest.mark.parametrize(
    "config",
    [config for name in FILTERS.names() for config in FILTERS[name].examples()],
    ids=lambda config: config.name,
)
class TestEveryFilter:
    def test_decides_on_any_text(self, config: FilterConfig) -> None:
        block = config.build()
        for text in (ARTICLE, *ODD):
            decision = block.filter(Document(text=text, id="0"))
            if isinstance(decision, tuple):
                keep, reason = decision
                assert keep is False
                assert reason
            else:
                assert decision is True, "a dropped document needs a reason, so that it can be counted"

    def test_keeps_plain_prose(self, config: FilterConfig) -> None:
        assert config.build().filter(Document(text=ARTICLE, id="0")) is True

    def test_decides_the_same_again_and_leaves_the_text_unchanged(self, config: FilterConfig) -> None:
        block, fresh = config.build(), config.build()
        documents = [Document(text=text, id="0") for text in (*ODD, ARTICLE)]
        first = [block.filter(document) for document in documents]
        assert [fresh.filter(document) for document in reversed(documents)] == first[::-1]
        assert [document.text for document in documents] == [*ODD, ARTICLE]

    def test_is_pickled_for_another_machine(self, config: FilterConfig) -> None:
        """Slurm's tasks load their pipeline from a file."""
        block = dill.loads(dill.dumps(config.build()))
        assert block.filter(Document(text=ARTICLE, id="0")) is True

    def test_its_config_reads_back(self, config: FilterConfig) -> None:
        assert FILTERS.parse(config.to_plain()) == config


def test_every_filter_has_an_example() -> None:
    assert FILTERS.names()
    for name in FILTERS.names():
        assert all(type(config) is FILTERS[name] for config in FILTERS[name].examples())
        assert FILTERS[name].examples()


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(UserError, match='did you mean "gopher_quality"'):
        FILTERS.parse("gopher_qualty")
