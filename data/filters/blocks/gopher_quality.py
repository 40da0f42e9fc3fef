"""datatrove's Gopher quality filter with the same decisions, to the document, in a fraction of the time.

The rules are computed over arrays of word features instead of Python loops.
"""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter

from data.filters.base import FilterDecision
from data.filters.blocks.words import REGEX_WORD_TOKENIZER, RegexWordTokenizer


class FastGopherQuality(GopherQualityFilter):  # type: ignore[misc]
    """A GopherQualityFilter, with the same limits, that is several times as fast."""

    def __init__(self, tokenizer: RegexWordTokenizer = REGEX_WORD_TOKENIZER, **limits: object) -> None:
        super().__init__(language=tokenizer, **limits)
        self._tokenizer = tokenizer

    def filter(self, doc: Document) -> FilterDecision:
        """Keep the document, or drop it with datatrove's name of the broken rule as the reason."""
        text: str = doc.text
        features = self._tokenizer.features(text)
        words = len(features.words)
        proper_words = words - int(features.is_symbol.sum())
        if proper_words < max(self.min_doc_words or 0, 1):  # without a word, the ratios below have no meaning
            return False, "gopher_short_doc"
        if self.max_doc_words and proper_words > self.max_doc_words:
            return False, "gopher_long_doc"
        average_length = int(features.lengths[~features.is_symbol].sum()) / proper_words
        if self.min_avg_word_length and average_length < self.min_avg_word_length:
            return False, "gopher_below_avg_threshold"
        if self.max_avg_word_length and average_length > self.max_avg_word_length:
            return False, "gopher_above_avg_threshold"
        ellipses = text.count("...") + text.count("…")
        if self.max_symbol_word_ratio:
            if text.count("#") / words > self.max_symbol_word_ratio:
                return False, "gopher_too_many_hashes"
            if ellipses / words > self.max_symbol_word_ratio:
                return False, "gopher_too_many_ellipsis"
        if broken := self._broken_line_rule(text, ellipses):
            return False, broken
        if self.max_non_alpha_words_ratio and int(features.has_alpha.sum()) / words < self.max_non_alpha_words_ratio:
            return False, "gopher_below_alpha_threshold"
        if self.min_stop_words and len(self.stop_words.intersection(features.words)) < self.min_stop_words:
            return False, "gopher_enough_stop_words"
        return True

    def _broken_line_rule(self, text: str, ellipses: int) -> str:
        may_have_bullets = self.max_bullet_lines_ratio and ("-" in text or "•" in text)
        if not may_have_bullets and not (self.max_ellipsis_lines_ratio and ellipses):
            return ""
        lines = text.splitlines()
        if may_have_bullets:
            bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
            if bullets / len(lines) > self.max_bullet_lines_ratio:
                return "gopher_too_many_bullets"
        if self.max_ellipsis_lines_ratio and ellipses:
            ends = sum(line.rstrip().endswith(("...", "…")) for line in lines)
            if ends / len(lines) > self.max_ellipsis_lines_ratio:
                return "gopher_too_many_end_ellipsis"
        return ""
