"""datatrove's Gopher repetition filter with the same decisions, to the document, in a fraction of the time.

Repetition is first bounded from above with hashes, and only a document that may break a rule is counted exactly. So a
collision of hashes costs time and never changes a decision.
"""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates

from data.filters.base import FilterDecision
from data.filters.blocks.ngrams import NgramHashes, most_frequent_characters, repeated_characters
from data.filters.blocks.words import REGEX_WORD_TOKENIZER, RegexWordTokenizer, WordFeatures

_FEW_WORDS = 400  # up to which exact counts cost less than bounds


class FastGopherRepetition(GopherRepetitionFilter):  # type: ignore[misc]
    """A GopherRepetitionFilter, with the same limits, that is several times as fast."""

    def __init__(self, tokenizer: RegexWordTokenizer = REGEX_WORD_TOKENIZER, **limits: object) -> None:
        super().__init__(language=tokenizer, **limits)
        self._tokenizer = tokenizer

    def filter(self, doc: Document) -> FilterDecision:
        """Keep the document, or drop it with datatrove's name of the broken rule as the reason."""
        text: str = doc.text
        if not text:
            return False, "empty"
        has_paragraphs = "\n\n" in text
        paragraphs = self.paragraph_exp.split(text.strip()) if has_paragraphs else [text]
        if broken := self._broken("para", paragraphs, text, self.dup_para_frac, self.dup_para_char_frac):
            return False, broken
        lines = self._line_splitter.split(text) if has_paragraphs else text.split("\n")
        if broken := self._broken("line", lines, text, self.dup_line_frac, self.dup_line_char_frac):
            return False, broken

        features = self._tokenizer.features(text)
        if broken := self._most_frequent(features, len(text)) or self._repeated(features, len(text)):
            return False, broken
        return True

    def _most_frequent(self, features: WordFeatures, characters: int) -> str:
        limits = [(n, share) for n, share in self.top_n_grams if len(features.words) >= n]
        if not limits:
            return ""
        is_long = len(features.words) > _FEW_WORDS
        hashes = NgramHashes(features, " ") if is_long else None
        # An n-gram is no more frequent than the n'-grams in it, so one pass over the shortest often settles all.
        max_times = hashes.max_times(min(n for n, _ in limits)) if hashes else 0
        for n, share in limits:
            if hashes and max_times * hashes.longest_characters(n) / characters <= share:
                continue
            if hashes and hashes.max_characters_of_most_frequent(n) / characters <= share:
                continue
            if most_frequent_characters(features.words, n) / characters > share:
                return f"top_{n}_gram"
        return ""

    def _repeated(self, features: WordFeatures, characters: int) -> str:
        limits = [(n, share) for n, share in self.dup_n_grams if len(features.words) >= n]
        if not limits:
            return ""
        hashes = NgramHashes(features, "")
        for n, share in limits:
            if hashes.max_repeated_characters(n) / characters <= share:
                continue
            if repeated_characters(features.words, n) / characters > share:
                return f"duplicated_{n}_n_grams"
        return ""

    def _broken(self, kind: str, parts: list[str], text: str, share: float | None, char_share: float | None) -> str:
        if len(set(parts)) == len(parts):
            return ""
        duplicates, characters = find_duplicates(parts)
        if share and duplicates / len(parts) > share:
            return f"dup_{kind}_frac"
        if char_share and characters / len(text) > char_share:
            return f"dup_{kind}_char_frac"
        return ""
