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
def test_language_keeps_its_own(language: str) -> None:
    step = FILTERS.parse({"name": "language", "languages": [language]}).build()
    kept = {name for name, text in LANGUAGES.items() if step.filter(Document(text=text, id="0")) is True}
    assert kept == {language}


def test_language_decides_as_datatrove_does() -> None:
    mine = OfflineLanguageFilter(("en", "fr"), 0.65, characters=10**9)
    stock = LanguageFilter(["en", "fr"], language_threshold=0.65)
    mine.filter(Document(text=ARTICLE, id="0"))
    stock.model._model = mine._model  # its own would be downloaded
    texts = [*LANGUAGES.values(), *TEXTS[:200], *ODD]
    for text in texts:
        document = Document(text=text, id="0")
        assert (mine.filter(document) is True) == bool(stock.filter(document)), text[:100]


def test_language_names_a_code_that_the_model_has_not() -> None:
    with pytest.raises(UserError, match="english"):
        FILTERS.parse({"name": "language", "languages": ["english"]}).build()
    assert {"en", "fr", "es", "de", "zh"} <= set(known_languages())
