"""Where text comes from. A kind of source is one file here, with a registered config that lists and reads it."""

from data.sources.base import SOURCES, BadDocument, Piece, SourceConfig, Text

__all__ = ["SOURCES", "BadDocument", "Piece", "SourceConfig", "Text"]
