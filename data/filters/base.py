"""The contract of a document filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from settings import Registry, Settings

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


class FilterConfig(Settings):
    """What every filter has. datatrove is imported in `build` only: reading a config must stay quick."""

    name: str = Field(description="Name of the filter.")

    def build(self) -> BaseFilter:
        """The datatrove step: `step.filter(document)` is True, or False, or (False, reason)."""
        raise AssertionError(f"{type(self).__name__} has no build")


FILTERS = Registry("filter", room="data.filters", base=FilterConfig)
