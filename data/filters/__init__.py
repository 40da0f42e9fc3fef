"""The document filters. A filter is one file here, with a registered config that builds a datatrove filter."""

from data.filters.base import FILTERS, FilterConfig

__all__ = ["FILTERS", "FilterConfig"]
