"""The Gopher repetition filter (Rae et al. 2021, arXiv:2112.11446, table A1), with datatrove's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.filters.base import FILTERS, FilterConfig

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


@FILTERS.register
class GopherRepetitionConfig(FilterConfig):
    """Drops documents that repeat themselves. The defaults are the paper's; 0 turns a rule of lines or paragraphs off.

    top_ngrams: for each n, the most frequent n-gram may hold at most this share of the characters.
    duplicate_ngrams: for each n, repeated n-grams together may hold at most this share.
    """

    name: Literal["gopher_repetition"] = "gopher_repetition"
    duplicate_lines: float = Field(0.3, ge=0)
    duplicate_paragraphs: float = Field(0.3, ge=0)
    duplicate_line_characters: float = Field(0.2, ge=0)
    duplicate_paragraph_characters: float = Field(0.2, ge=0)
    top_ngrams: dict[int, float] = Field({2: 0.2, 3: 0.18, 4: 0.16})
    duplicate_ngrams: dict[int, float] = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})

    def build(self) -> BaseFilter:
        from data.filters.blocks.gopher_repetition import FastGopherRepetition

        return FastGopherRepetition(
            dup_line_frac=self.duplicate_lines,
            dup_para_frac=self.duplicate_paragraphs,
            dup_line_char_frac=self.duplicate_line_characters,
            dup_para_char_frac=self.duplicate_paragraph_characters,
            top_n_grams=tuple(self.top_ngrams.items()),
            dup_n_grams=tuple(self.duplicate_ngrams.items()),
        )
