"""The standard library of the running Python: real code that every machine already has."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from data.sources.base import LANGUAGE, LICENCE, SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.text import read_text_file
from settings import UserError

_EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3"})


@SOURCES.register
class StandardLibraryConfig(SourceConfig):
    """Every .py file of the standard library except its tests; each file is a document."""

    name: Literal["standard_library"] = "standard_library"
    licence: str = Field("PSF-2.0", description=LICENCE)
    language: str = Field("python", description=LANGUAGE)

    def files(self) -> Sequence[Path]:
        folder = Path(sysconfig.get_path("stdlib"))
        files = []
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in _EXCLUDED_FOLDERS]  # prunes the walk
            files += [Path(parent, name) for name in names if name.endswith(".py")]
        if not files:
            raise UserError(
                f"this Python's standard library has no .py files under {folder}: install them, or leave it out"
            )
        return sorted(files)

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per file."""
        return [InputPart(file, file.stat().st_size) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        yield read_text_file(part.path, str(part.path), max_bytes=part.max_document_bytes)

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        return cls()
