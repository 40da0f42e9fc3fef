"""The contract of a source: it lists its input as pieces, and reads the documents of a piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.filters import FILTERS, FilterConfig
from settings import Registry, Settings

LICENCE = "Licence of the text; it is recorded in dataset.json."
LANGUAGE = "Language of the text as an ISO 639 code; it is recorded in dataset.json. und means undetermined."


@dataclass(frozen=True)
class Piece:
    """A part of one input file that one task reads.

    What `part` of `parts` means is the source's own: a range of bytes, every n-th row group, every n-th document.
    """

    path: Path
    bytes: int  # of text in this piece, about: what is known without reading it
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Text:
    """One document as it was read, with where it came from: a file, and a line, row or member of it."""

    text: str
    where: str


@dataclass(frozen=True)
class BadDocument:
    """Something that should have been a document and is not; `reason` is one word that is counted."""

    reason: str
    where: str
    detail: str = ""


class SourceConfig(Settings):
    """What every source has. Its name in the config (`data.sources.NAME`) is the name of its folder of shards."""

    name: str = Field(description="Name of the kind of source.")
    licence: str = Field("unknown", description=LICENCE)
    language: str = Field("und", description=LANGUAGE)
    max_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of text (UTF-8), about, that are taken, from each part of the input its share; 0 means all.",
    )
    filters: tuple[Annotated[FilterConfig, FILTERS.field], ...] | None = Field(
        None, description="Filters of this source; null means those of data.filters, [] keeps every document."
    )
    held_out_fraction: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Share of this source's documents that are held out; null means data.held_out_fraction. A source "
        "of few documents needs a larger share.",
    )

    def files(self) -> Sequence[Path]:
        """Every input file, in a fixed order. Raises UserError where one is missing."""
        raise AssertionError(f"{type(self).__name__} has no files")

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """The input cut into pieces of about `piece_bytes` or less, where it can be cut."""
        raise AssertionError(f"{type(self).__name__} has no pieces")

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        """The documents of a piece, in order; the pieces together hold every document once."""
        raise AssertionError(f"{type(self).__name__} has no read")


SOURCES = Registry("source", room="data.sources", base=SourceConfig)
