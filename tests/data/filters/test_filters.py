"""Every filter of the registry keeps its contract; the Gopher and language filters decide as datatrove's own do."""

from __future__ import annotations

import random

import dill
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LanguageFilter
from hypothesis import given, settings
from hypothesis import strategies as st

from data.filters import FILTERS, FilterConfig
from data.filters.blocks.gopher import (
    FastGopherQuality,
    FastGopherRepetition,
    most_frequent_characters,
    repeated_characters,
)
from data.filters.blocks.language import OfflineLanguageFilter, known_languages
from data.filters.blocks.words import RegexWords
from data.sources import SOURCES, Text
from settings import UserError

ARTICLE = (
    "The kiln is the oven in which glass is annealed. A piece that has been blown is hot, and its skin cools before "
    "its heart; if it were left to stand in the open air it would crack within the hour. So the glassmaker carries it "
    "to the kiln, which has been brought to the right heat beforehand, and shuts the door. Over the night the fire is "
    "let down by degrees, and in the morning the piece can be taken out, cut, and sold. Those who have worked with "
    "glass know that the waiting is the greater part of the work, and that most failures have their cause in haste."
)
ODD = (
    "a",
    ".",
    "…",
    "\n",
    "word",
    "- " * 400,
    "x" * 200_000,
    "the the the the " * 300,
    "日本語の文章はスペースなしで書かれます。" * 20,
    "👩‍👩‍👧 🇫🇷 e\u0301\u0302 \u200b \ufeff",
    "line\n" * 500,
    "\u2028\u2029\x85\x1c",
    "#" * 100,
)


@pytest.mark.parametrize("name", FILTERS.names())
class TestEveryFilter:
    def test_is_built_from_its_name_and_decides(self, name: str) -> None:
        step = FILTERS.parse(name).build()
        for text in (ARTICLE, *ODD):
            verdict = step.filter(Document(text=text, id="0"))
            if isinstance(verdict, tuple):
                keep, reason = verdict
                assert keep is False
                assert reason
            else:
                assert verdict is True, "what goes has a reason, so that it can be counted"

    def test_keeps_plain_prose(self, name: str) -> None:
        assert FILTERS.parse(name).build().filter(Document(text=ARTICLE, id="0")) is True

    def test_decides_the_same_again_and_leaves_the_text_alone(self, name: str) -> None:
        step, fresh = FILTERS.parse(name).build(), FILTERS.parse(name).build()
        documents = [Document(text=text, id="0") for text in (*ODD, ARTICLE)]
        first = [step.filter(document) for document in documents]
        assert [fresh.filter(document) for document in reversed(documents)] == first[::-1]
        assert [document.text for document in documents] == [*ODD, ARTICLE]

    def test_travels_to_another_machine(self, name: str) -> None:
        """Slurm's tasks load their pipeline from a file."""
        step = dill.loads(dill.dumps(FILTERS.parse(name).build()))
        assert step.filter(Document(text=ARTICLE, id="0")) is True

    def test_its_config_reads_back(self, name: str) -> None:
        config = FILTERS.parse(name)
        assert isinstance(config, FilterConfig)
        assert FILTERS.parse(config.to_plain()) == config


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(UserError, match='did you mean "gopher_quality"'):
        FILTERS.parse("gopher_qualty")


def real_texts() -> list[str]:
    """Code, documentation, and prose of this machine's own Python: no download."""
    source = SOURCES.parse("standard_library")
    read = [document for piece in source.pieces(1)[::20] for document in source.read(piece)]
    texts = [document.text for document in read if isinstance(document, Text)]
    return [text[:30_000] for text in texts if text]


def made_texts(count: int) -> list[str]:
    """Words in random order with phrases that come again: around the thresholds of every rule."""
    rng = random.Random(0)
    words = "the of and that to be have with glass kiln fire hour it's U.S. 3.14 1,000 don't -- ... • # é 1 11 a,b"
    vocabulary = words.split()
    texts = []
    for _ in range(count):
        phrases = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 12))) for _ in range(rng.randint(1, 40))]
        repeats = rng.choices(phrases, k=rng.randint(1, 60))
        texts.append(rng.choice([" ", "\n", "\n\n", ". "]).join(repeats))
    return texts


TEXTS = [*real_texts(), *made_texts(700), *(text for text in ODD if text != "…")]


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
    words = RegexWords()
    stock, fast = GopherQualityFilter(language=words, **limits), FastGopherQuality(words, **limits)
    verdicts = set()
    for text in TEXTS:
        document = Document(text=text, id="0")
        verdict = fast.filter(document)
        assert verdict == stock.filter(document), text[:200]
        verdicts.add(str(verdict))
    assert len(verdicts) >= 4  # several rules were met


def test_repetition_decides_as_datatrove_does() -> None:
    words = RegexWords()
    for limits in ({}, {"dup_line_frac": 0, "dup_para_frac": 0, "dup_line_char_frac": 0, "dup_para_char_frac": 0}):
        stock, fast = GopherRepetitionFilter(language=words, **limits), FastGopherRepetition(words, **limits)
        verdicts = set()
        for text in TEXTS:
            document = Document(text=text, id="0")
            verdict = fast.filter(document)
            assert verdict == stock.filter(document), text[:200]
            verdicts.add(str(verdict))
        assert len(verdicts) >= 8


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from(["1", "11", "a", "aa", "of", "the", ",", "é"]), min_size=1, max_size=80),
    long=st.booleans(),
)
def test_repetition_on_words_that_run_together(words: list[str], long: bool) -> None:
    """'1 11' and '11 1' are one string without the space, which is how datatrove compares the longer n-grams."""
    text = " ".join(words * 12 if long else words)  # more words than are counted one by one
    tokenizer = RegexWords()
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


LANGUAGES = {
    "en": ARTICLE,
    "fr": "Le four dans lequel on recuit le verre doit être chaud avant que la pièce n'y entre, sinon elle se brise.",
    "de": "Der Ofen, in dem das Glas gekühlt wird, muss heiß sein, bevor das Stück hineinkommt, sonst zerspringt es.",
    "es": "El horno en el que se recuece el vidrio debe estar caliente antes de que entre la pieza, o se romperá.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_keeps_its_own(language: str) -> None:
    step = FILTERS.parse({"name": "language", "languages": [language]}).build()
    kept = {name for name, text in LANGUAGES.items() if step.filter(Document(text=text, id="0")) is True}
    assert kept == {language}


def test_language_decides_as_datatrove_does() -> None:
    mine = OfflineLanguageFilter(("en", "fr"), 0.65, characters=10**9)
    stock = LanguageFilter(["en", "fr"], language_threshold=0.65)
    mine.filter(Document(text=ARTICLE, id="0"))
    stock.model._model = mine._model  # its own would be downloaded
    texts = [*LANGUAGES.values(), *TEXTS[:200], *ODD]
    for text in texts:
        document = Document(text=text, id="0")
        assert (mine.filter(document) is True) == bool(stock.filter(document)), text[:100]


def test_language_names_a_code_that_the_model_has_not() -> None:
    with pytest.raises(UserError, match="english"):
        FILTERS.parse({"name": "language", "languages": ["english"]}).build()
    assert {"en", "fr", "es", "de", "zh"} <= set(known_languages())


def test_words() -> None:
    cut = RegexWords().word_tokenize
    assert " ".join(cut("The U.S. paid 1,000.50; didn't it?")) == "The U.S . paid 1,000.50 ; didn 't it ?"
    assert cut("Earth’s crust -- 5km... done") == ["Earth", "’s", "crust", "--", "5km", "...", "done"]
    assert cut("snake_case _x_") == ["snake_case", "_", "x", "_"]
    assert cut("日本のガラス") == list("日本のガラス")
    assert cut(" \t\n") == []


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_words_of_ascii_are_those_of_the_general_expression(text: str) -> None:
    cut = RegexWords().word_tokenize
    assert cut(text) == cut(text + " é")[:-1]


@given(st.text())
def test_words_hold_everything_but_space(text: str) -> None:
    words = RegexWords().word_tokenize(text)
    assert "".join(words) == "".join(text.split())
    assert all(word and not any(character.isspace() for character in word) for word in words)
