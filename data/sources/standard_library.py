"""The standard library of the Python that runs this: real code that every machine already has."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from data.sources.base import LANGUAGE, LICENCE, SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.text import read_text_file
from settings import UserError

_NOT_OF_IT = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3"})


@SOURCES.register
class StandardLibraryConfig(SourceConfig):
    """Every .py file of the standard library except its tests; a file is a document."""

    name: Literal["standard_library"] = "standard_library"
    licence: str = Field("PSF-2.0", description=LICENCE)
    language: str = Field("python", description=LANGUAGE)

    def files(self) -> Sequence[Path]:
        folder = Path(sysconfig.get_path("stdlib"))
        files = []
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in _NOT_OF_IT]  # prunes the walk
            files += [Path(parent, name) for name in names if name.endswith(".py")]
        if not files:
            raise UserError(
                f"this Python's standard library has no .py files under {folder}: install them, or leave it out"
            )
        return sorted(files)

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """A file is a piece."""
        return [Piece(file, file.stat().st_size) for file in self.files()]

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        yield read_text_file(piece.path, str(piece.path))
