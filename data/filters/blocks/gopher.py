"""datatrove's Gopher filters with the same decisions, to the document, in a fraction of the time.

The rules are counted over arrays of facts about words instead of Python loops. Repetition is first bounded from above
with hashes; only a document that may break a rule is counted exactly. So a collision of hashes costs time, never a
decision.
"""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates

from data.filters.blocks.words import REGEX_WORDS, RegexWords, WordFacts

Verdict = bool | tuple[bool, str]
_FEW_WORDS = 400  # up to which counting n-grams costs less than bounding them


class FastGopherQuality(GopherQualityFilter):  # type: ignore[misc]
    """Takes GopherQualityFilter's limits."""

    def __init__(self, words: RegexWords = REGEX_WORDS, **limits: object) -> None:
        super().__init__(language=words, **limits)
        self._words = words

    def filter(self, doc: Document) -> Verdict:
        """True, or False with datatrove's name of the broken rule."""
        text: str = doc.text
        facts = self._words.facts(text)
        words = len(facts.words)
        proper_words = words - int(facts.is_symbol.sum())
        if proper_words < max(self.min_doc_words or 0, 1):  # without a word, the ratios below have no meaning
            return False, "gopher_short_doc"
        if self.max_doc_words and proper_words > self.max_doc_words:
            return False, "gopher_long_doc"
        average_length = int(facts.lengths[~facts.is_symbol].sum()) / proper_words
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
        if self.max_non_alpha_words_ratio and int(facts.has_alpha.sum()) / words < self.max_non_alpha_words_ratio:
            return False, "gopher_below_alpha_threshold"
        if self.min_stop_words and len(self.stop_words.intersection(facts.words)) < self.min_stop_words:
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


class FastGopherRepetition(GopherRepetitionFilter):  # type: ignore[misc]
    """Takes GopherRepetitionFilter's limits."""

    def __init__(self, words: RegexWords = REGEX_WORDS, **limits: object) -> None:
        super().__init__(language=words, **limits)
        self._words = words

    def filter(self, doc: Document) -> Verdict:
        """True, or False with datatrove's name of the broken rule."""
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

        facts = self._words.facts(text)
        if broken := self._most_frequent(facts, len(text)) or self._repeated(facts, len(text)):
            return False, broken
        return True

    def _most_frequent(self, facts: WordFacts, characters: int) -> str:
        limits = [(n, share) for n, share in self.top_n_grams if len(facts.words) >= n]
        if not limits:
            return ""
        is_long = len(facts.words) > _FEW_WORDS
        windows = Windows(facts, " ") if is_long else None
        # An n-gram is no more frequent than the n'-grams in it, so one pass over the shortest often settles all.
        most_times = windows.most_times(min(n for n, _ in limits)) if windows else 0
        for n, share in limits:
            if windows and most_times * windows.longest(n) / characters <= share:
                continue
            if windows and windows.most_in_one(n) / characters <= share:
                continue
            if most_frequent_characters(facts.words, n) / characters > share:
                return f"top_{n}_gram"
        return ""

    def _repeated(self, facts: WordFacts, characters: int) -> str:
        limits = [(n, share) for n, share in self.dup_n_grams if len(facts.words) >= n]
        if not limits:
            return ""
        windows = Windows(facts, "")
        for n, share in limits:
            if windows.most_repeated(n) / characters <= share:
                continue
            if repeated_characters(facts.words, n) / characters > share:
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


def most_frequent_characters(words: list[str], n: int) -> int:
    """The characters that the most frequent n-gram holds, spaces between words counted; the first of equals."""
    counts = Counter(zip(*(words[offset:] for offset in range(n)), strict=False))
    ngram, times = max(counts.items(), key=itemgetter(1))
    return (sum(map(len, ngram)) + n - 1) * times


def repeated_characters(words: list[str], n: int) -> int:
    """The characters of n-grams seen before, going on behind each such n-gram; compared without spaces."""
    ngrams = list(map("".join, zip(*(words[offset:] for offset in range(n)), strict=False)))
    seen: set[str] = set()
    position = characters = 0
    while position < len(ngrams):
        ngram = ngrams[position]
        if ngram in seen:
            characters += len(ngram)
            position += n
        else:
            seen.add(ngram)
            position += 1
    return characters


# An odd multiplier has an inverse modulo 2^64, which takes the hash of a window back to the start of the text.
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    values = np.full(count, base, dtype=np.uint64)
    values[0] = 1
    return np.cumprod(values, dtype=np.uint64)


class Windows:
    """Hashes of every n-gram of a text's words, each joined by `separator`: equal strings have equal hashes.

    With c_i the characters of all words joined and S_j = sum over i < j of c_i B^i (mod 2^64), the hash of the window
    [a, b) is (S_b - S_a) B^-a: one pass over the characters serves every n.
    """

    _forward = _powers(_BASE, 1 << 16)
    _backward = _powers(_BASE_INVERSE, 1 << 16)

    def __init__(self, facts: WordFacts, separator: str) -> None:
        joined = separator.join(facts.words)
        while len(Windows._forward) <= len(joined):
            Windows._forward = _powers(_BASE, 2 * len(Windows._forward))
            Windows._backward = _powers(_BASE_INVERSE, 2 * len(Windows._backward))
        characters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        sums = np.zeros(len(joined) + 1, dtype=np.uint64)
        np.cumsum(characters * Windows._forward[: len(joined)], out=sums[1:])
        self._lengths = facts.lengths
        self._ends = np.cumsum(facts.lengths + len(separator)) - len(separator)
        self._starts = self._ends - facts.lengths
        self._sums_at_starts, self._sums_at_ends = sums[self._starts], sums[self._ends]
        self._to_origin = Windows._backward[self._starts]

    def longest(self, n: int) -> int:
        """The characters of the longest n-gram, separators counted."""
        return int(self._characters(n).max())

    def most_times(self, n: int) -> int:
        """At least how often the most frequent n-gram occurs."""
        return int(_runs(np.sort(self._hashes(n)))[1].max())

    def most_in_one(self, n: int) -> int:
        """At least the characters that all occurrences of the most frequent n-gram hold together."""
        hashes = self._hashes(n)
        order = np.argsort(hashes)
        run_starts, run_lengths = _runs(hashes[order])
        times = run_lengths.max()
        most_frequent = order[run_starts[run_lengths == times]]
        return int(times * self._characters(n)[most_frequent].max())

    def most_repeated(self, n: int) -> int:
        """At least the characters of the words that lie in an n-gram seen before."""
        hashes = self._hashes(n)
        ordered = np.sort(hashes)
        if not (ordered[1:] == ordered[:-1]).any():
            return 0
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        repeated = order[1:][ordered[1:] == ordered[:-1]]
        edges = np.zeros(len(self._lengths) + 1, dtype=np.int64)
        edges[repeated] += 1  # no position occurs twice in `repeated`
        edges[repeated + n] -= 1
        return int(self._lengths[np.cumsum(edges[:-1]) > 0].sum())

    def _characters(self, n: int) -> npt.NDArray[np.int64]:
        characters: npt.NDArray[np.int64] = self._ends[n - 1 :] - self._starts[: len(self._starts) - n + 1]
        return characters

    def _hashes(self, n: int) -> npt.NDArray[np.uint64]:
        count = len(self._starts) - n + 1
        hashes: npt.NDArray[np.uint64] = self._sums_at_ends[n - 1 :] - self._sums_at_starts[:count]
        hashes *= self._to_origin[:count]
        return hashes


def _runs(ordered: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each run of equal values starts in a sorted array, and how long it is."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return starts, np.append(starts[1:], len(ordered)) - starts
