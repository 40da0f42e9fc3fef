"""The Gopher filters decide as datatrove's own do, to the document."""

from __future__ import annotations

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from filter_texts import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from data.filters.blocks.gopher_quality import FastGopherQuality
from data.filters.blocks.gopher_repetition import FastGopherRepetition
from data.filters.blocks.ngrams import most_frequent_characters, repeated_characters
from data.filters.blocks.words import RegexWordTokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_non_alpha_words_ratio": 0.6, "min_doc_words": 5},
        {"min_doc_words": 1, "max_doc_words": 300, "min_stop_words": 0, "max_avg_word_length": 5},
        {"max_symbol_word_ratio": 0, "max_bullet_lines_ratio": 0.2, "max_ellipsis_lines_ratio": 0.05},
    ],
)
def test_quality_decides_as_datatrove_does(limits: dict[str, float]) -> None:
    words = RegexWordTokenizer()
    stock, fast = GopherQualityFilter(language=words, **limits), FastGopherQuality(words, **limits)
    decisions = set()
    for text in TEXTS:
        document = Document(text=text, id="0")
        decision = fast.filter(document)
        assert decision == stock.filter(document), text[:200]
        decisions.add(str(decision))
    assert len(decisions) >= 4  # several rules were met


@pytest.mark.slow
def test_repetition_decides_as_datatrove_does() -> None:
    words = RegexWordTokenizer()
    for limits in ({}, {"dup_line_frac": 0, "dup_para_frac": 0, "dup_line_char_frac": 0, "dup_para_char_frac": 0}):
        stock, fast = GopherRepetitionFilter(language=words, **limits), FastGopherRepetition(words, **limits)
        decisions = set()
        for text in TEXTS:
            document = Document(text=text, id="0")
            decision = fast.filter(document)
            assert decision == stock.filter(document), text[:200]
            decisions.add(str(decision))
        assert len(decisions) >= 8


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from(["1", "11", "a", "aa", "of", "the", ",", "é"]), min_size=1, max_size=80),
    long=st.booleans(),
)
def test_repetition_on_words_that_run_together(words: list[str], long: bool) -> None:
    """'1 11' and '11 1' are one string without the space, which is how datatrove compares the longer n-grams."""
    text = " ".join(words * 12 if long else words)  # more words than are counted one by one
    tokenizer = RegexWordTokenizer()
    limits = {"dup_n_grams": ((5, 0.3), (6, 0.05), (10, 0.1)), "top_n_grams": ((2, 0.3), (3, 0.2), (4, 0.5))}
    document = Document(text=text, id="0")
    stock = GopherRepetitionFilter(language=tokenizer, **limits).filter(document)
    assert FastGopherRepetition(tokenizer, **limits).filter(document) == stock


def test_counts_of_ngrams_by_hand() -> None:
    words = ["a", "b", "c", "a", "b", "c", "a", "b"]
    assert most_frequent_characters(words, 2) == len("a b") * 3
    assert repeated_characters(words, 2) == 4  # ab, bc, ca are new; then ab again, and behind it ca again
    assert repeated_characters(words, 5) == 5  # the fourth of four
    assert repeated_characters(words, 8) == 0
