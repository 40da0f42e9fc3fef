"""The language filter keeps its languages, and decides as datatrove's own does."""

from __future__ import annotations

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import LanguageFilter
from filter_texts import ARTICLE, ODD, TEXTS

from data.filters import FILTERS
from data.filters.blocks.language import OfflineLanguageFilter, known_languages
from settings import UserError

LANGUAGES = {
    "en": ARTICLE,
    "fr": "Le four dans lequel on recuit le verre doit être chaud avant que la pièce n'y entre, sinon elle se brise.",
    "de": "Der Ofen, in dem das Glas gekühlt wird, muss heiß sein, bevor das Stück hineinkommt, sonst zerspringt es.",
    "es": "El horno en el que se recuece el vidrio debe estar caliente antes de que entre la pieza, o se romperá.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_keeps_only_its_language(language: str) -> None:
    step = FILTERS.parse({"name": "language", "languages": [language]}).build()
    keeps = {name for name, text in LANGUAGES.items() if step.filter(Document(text=text, id="0")) is True}
    assert keeps == {language}


def test_language_decides_as_datatrove_does() -> None:
    offline = OfflineLanguageFilter(("en", "fr"), 0.65, characters=10**9)
    stock = LanguageFilter(["en", "fr"], language_threshold=0.65)
    offline.filter(Document(text=ARTICLE, id="0"))
    stock.model._model = offline._model  # its own would be downloaded
    texts = [*LANGUAGES.values(), *TEXTS[:200], *ODD]
    for text in texts:
        document = Document(text=text, id="0")
        assert (offline.filter(document) is True) == bool(stock.filter(document)), text[:100]


def test_an_unknown_language_code_is_named() -> None:
    with pytest.raises(UserError, match="english"):
        FILTERS.parse({"name": "language", "languages": ["english"]}).build()
    assert {"en", "fr", "es", "de", "zh"} <= set(known_languages())
