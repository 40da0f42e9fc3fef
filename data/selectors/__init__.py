"""The selectors, which score documents for selection. A selector is one file here, with a registered config."""

from data.selectors.base import SELECTORS, Scorer, SelectorConfig

__all__ = ["SELECTORS", "Scorer", "SelectorConfig"]
