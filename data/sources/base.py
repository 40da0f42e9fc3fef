"""The contract of a source: it lists its input in parts, and reads the documents of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from data.filters import FILTERS, FilterConfig
from settings import Registry, Settings

LICENCE = "Licence of the text; it is recorded in dataset.json."
LANGUAGE = "Language of the text as an ISO 639 code; it is recorded in dataset.json. und means undetermined."


@dataclass(frozen=True)
class InputPart:
    """A part of one input file, which one task reads.

    Each source decides what part `index` of `count` is: a range of bytes, every n-th row group, every n-th document.
    """

    path: Path
    bytes: int  # of text in this part, estimated without reading it
    index: int = 0
    count: int = 1
    file_bytes: int | None = None  # the file's size when it was divided; None means that no size decides the part
    max_document_bytes: int = 16 * 2**20  # a longer document is a BadDocument, and is never held in memory as a whole


@dataclass(frozen=True)
class RawDocument:
    """One document as it was read; `where` names its file, and its line, row or member there."""

    text: str
    where: str


@dataclass(frozen=True)
class BadDocument:
    """Something that should have been a document and is not; `reason` is counted (data/drop_reasons.py)."""

    reason: str
    where: str
    detail: str = ""


class SourceConfig(Settings):
    """The fields of every source. Its key in the config (`data.sources.KEY`) names its folder of shards."""

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
    deduplicate: bool = Field(
        True, description="Whether this source takes part in data.deduplicate; false keeps its duplicates."
    )
    held_out_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of this source's documents that are held out; null means data.held_out_fraction. A source "
        "of few documents needs a larger share, and one that only serves to evaluate has 1.",
    )

    def files(self) -> Sequence[Path]:
        """Return every input file, in a fixed order. Raises UserError if one is missing."""
        raise AssertionError(f"{type(self).__name__} has no files")

    def unread(self) -> Mapping[str, int]:
        """Count the files in the folders of the input that are not read, by reason; the build says so in one line."""
        return {}

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Divide the input into parts of about `part_bytes` or less, as far as its files can be divided."""
        raise AssertionError(f"{type(self).__name__} has no parts")

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        """Yield the documents of a part, in order; all parts together hold every document once.

        Damaged input becomes a BadDocument, never an exception.
        """
        raise AssertionError(f"{type(self).__name__} has no read")

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        """Write `documents` to files in `folder` in this source's format, and return a config that reads them.

        The contract tests of sources read them back. No document has an empty line or white space at its ends. A source
        that always reads the same input, such as the standard library, writes nothing.
        """
        raise AssertionError(f"{cls.__name__} has no example")


SOURCES = Registry("source", room="data.sources", base=SourceConfig)
