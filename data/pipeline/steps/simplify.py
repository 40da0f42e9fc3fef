"""The simplified text that MinHash compares: datatrove's `simplify_text` with the same result, but faster."""

from __future__ import annotations

import re
import unicodedata

import regex
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION_TRANS
from datatrove.utils.word_tokenizers import WordTokenizer

from data.filters.blocks.words import add_cjk_spaces

_ascii_numbers = re.compile(r"[0-9]+(?:[.,][0-9]+)?")
_accents = regex.compile(r"\p{Mn}+")


def simplify_text(text: str) -> str:
    """Convert a text to lower case with numbers as 0, single spaces, no punctuation and no accents.

    Each character of Han, Hiragana and Katakana becomes a word, which datatrove leaves to a tokenizer per language.
    """
    text = text.lower()
    if text.isascii():
        return " ".join(_ascii_numbers.sub("0", text).translate(PUNCTUATION_TRANS).split())
    text = NUMBERS_PATTERN.sub("0", text).translate(PUNCTUATION_TRANS)
    text = _accents.sub("", unicodedata.normalize("NFD", text))
    return " ".join(add_cjk_spaces(text).split())


class WhitespaceTokenizer(WordTokenizer):  # type: ignore[misc]
    """Splits simplified text at spaces, and between characters of Han, Hiragana and Katakana."""

    def word_tokenize(self, text: str) -> list[str]:
        return add_cjk_spaces(text).split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("WhitespaceTokenizer splits words, not sentences")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError("WhitespaceTokenizer splits words, not sentences")
