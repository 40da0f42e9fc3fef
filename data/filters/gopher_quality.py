"""The Gopher quality filter (Rae et al. 2021, arXiv:2112.11446, section A.1.1), with datatrove's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.filters.base import FILTERS, FilterConfig

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


@FILTERS.register
class GopherQualityConfig(FilterConfig):
    """Drops documents that do not read as prose (the Gopher quality filter, arXiv 2112.11446).

    The defaults are the paper's. A limit of 0 turns its rule off. Punctuation marks count as words without a letter, as
    they do in datatrove, which makes min_alpha_words_ratio = 0.8 strict: 0.7 keeps dialogue and verse.
    """

    name: Literal["gopher_quality"] = "gopher_quality"
    min_words: int = Field(50, ge=0, description="Fewest words of a document.")
    max_words: int = Field(100_000, ge=0, description="Most words of a document.")
    min_average_word_length: float = Field(3, ge=0, description="Smallest average length of a word, in characters.")
    max_average_word_length: float = Field(10, ge=0, description="Largest average length of a word, in characters.")
    max_symbol_word_ratio: float = Field(
        0.1, ge=0, description="Largest number of hash signs, and of ellipses, for each word."
    )
    max_bullet_lines_ratio: float = Field(0.9, ge=0, description="Largest share of lines that begin with a bullet.")
    max_ellipsis_lines_ratio: float = Field(0.3, ge=0, description="Largest share of lines that end with an ellipsis.")
    min_alpha_words_ratio: float = Field(0.8, ge=0, le=1, description="Smallest share of words that have a letter.")
    min_stop_words: int = Field(2, ge=0, description="Fewest occurrences of stop words.")
    stop_words: tuple[str, ...] = Field(
        ("the", "be", "to", "of", "and", "that", "have", "with"), description="The words that every prose text has."
    )

    def build(self) -> BaseFilter:
        from data.filters.blocks.gopher_quality import FastGopherQuality

        return FastGopherQuality(
            min_doc_words=self.min_words,
            max_doc_words=self.max_words,
            min_avg_word_length=self.min_average_word_length,
            max_avg_word_length=self.max_average_word_length,
            max_symbol_word_ratio=self.max_symbol_word_ratio,
            max_bullet_lines_ratio=self.max_bullet_lines_ratio,
            max_ellipsis_lines_ratio=self.max_ellipsis_lines_ratio,
            max_non_alpha_words_ratio=self.min_alpha_words_ratio,  # datatrove's name for the minimum of alpha words
            min_stop_words=self.min_stop_words,
            stop_words=list(self.stop_words),
        )
