"""The word tokenizer: its words by hand, and what holds for the words of any text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data.filters.blocks.words import RegexWordTokenizer


def test_words() -> None:
    split = RegexWordTokenizer().word_tokenize
    assert " ".join(split("The U.S. paid 1,000.50; didn't it?")) == "The U.S . paid 1,000.50 ; didn 't it ?"
    assert split("Earth’s crust -- 5km... done") == ["Earth", "’s", "crust", "--", "5km", "...", "done"]
    assert split("snake_case _x_") == ["snake_case", "_", "x", "_"]
    assert split("日本のガラス") == list("日本のガラス")
    assert split(" \t\n") == []


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_words_of_ascii_are_those_of_the_general_expression(text: str) -> None:
    split = RegexWordTokenizer().word_tokenize
    assert split(text) == split(text + " é")[:-1]


@given(st.text())
def test_words_hold_everything_but_space(text: str) -> None:
    words = RegexWordTokenizer().word_tokenize(text)
    assert "".join(words) == "".join(text.split())
    assert all(word and not any(character.isspace() for character in word) for word in words)
