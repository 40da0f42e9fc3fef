"""The Gopher repetition filter (Rae et al. 2021, arXiv:2112.11446, table A1), with datatrove's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.filters.base import FILTERS, FilterConfig

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


@FILTERS.register
class GopherRepetitionConfig(FilterConfig):
    """Drops documents that repeat themselves (the Gopher repetition filter, arXiv 2112.11446).

    The defaults are the paper's. A limit of 0 turns a rule of lines or paragraphs off.
    """

    name: Literal["gopher_repetition"] = "gopher_repetition"
    duplicate_lines: float = Field(0.3, ge=0, description="Largest share of lines that occur before.")
    duplicate_paragraphs: float = Field(0.3, ge=0, description="Largest share of paragraphs that occur before.")
    duplicate_line_characters: float = Field(
        0.2, ge=0, description="Largest share of the characters that is in lines that occur before."
    )
    duplicate_paragraph_characters: float = Field(
        0.2, ge=0, description="Largest share of the characters that is in paragraphs that occur before."
    )
    top_ngrams: dict[int, float] = Field(
        {2: 0.2, 3: 0.18, 4: 0.16},
        description="For each n, the largest share of the characters that the most frequent n-gram of words may hold.",
    )
    duplicate_ngrams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="For each n, the largest share of the characters that repeated n-grams of words may hold together.",
    )

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
