"""The sources of text. A kind of source is one file here, with a registered config that lists and reads its input."""

from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig

__all__ = ["SOURCES", "BadDocument", "InputPart", "RawDocument", "SourceConfig"]
