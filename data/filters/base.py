"""The contract of a document filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import Field

from settings import Registry, Settings

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


FilterDecision: TypeAlias = bool | tuple[bool, str]  # True keeps the document; (False, reason) drops and counts it


class FilterConfig(Settings):
    """The config of a filter. Only `build` imports datatrove, so that reading a config stays quick.

    The filter may be a class that is defined inside `build`, since its base class is imported there.
    """

    name: str = Field(description="Name of the filter.")

    def build(self) -> BaseFilter:
        """Build the datatrove filter, whose `filter(document)` returns a FilterDecision."""
        raise AssertionError(f"{type(self).__name__} has no build")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return the configs that the contract tests build: each must keep a paragraph of plain English prose.

        Override it if a field has no default, or if the defaults drop English prose.
        """
        return (cls.model_validate({}),)


FILTERS = Registry("filter", room="data.filters", base=FilterConfig)
