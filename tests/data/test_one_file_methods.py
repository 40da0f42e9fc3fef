"""A filter, a source and a selector are one file each.

Dropped into a copy of the rooms, the contract tests find and test them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in import copy_rooms, run_contracts

pytestmark = pytest.mark.slow  # each starts pytest, which imports datatrove

FILTER = '''
"""Drops documents with a forbidden word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from data.filters.base import FILTERS, FilterConfig

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter


@FILTERS.register
class ForbiddenWordConfig(FilterConfig):
    name: Literal["forbidden_word"] = "forbidden_word"
    word: str

    def build(self) -> BaseFilter:
        from datatrove.pipeline.filters import LambdaFilter

        word = self.word
        return LambdaFilter(lambda document: word not in document.text.split() or (False, "forbidden_word"))

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(word="word"), cls(word="line"))
'''

SOURCE = '''
"""Text files whose documents are separated by form feeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import find_input_files
from data.sources.text import read_text_file


@SOURCES.register
class FormFeedConfig(SourceConfig):
    name: Literal["form_feed"] = "form_feed"
    path: str

    def files(self) -> Sequence[Path]:
        return find_input_files([self.path], (".ff",), key="path")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        return [InputPart(file, file.stat().st_size) for file in self.files()]

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        content = read_text_file(part.path, str(part.path))
        if isinstance(content, BadDocument):
            yield content
            return
        for text in content.text.split("\\f"):
            yield RawDocument(text, content.where)

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        (folder / "a.ff").write_text("\\f".join(documents))
        return cls(path=str(folder / "*.ff"))
'''

SELECTOR = '''
"""Prefers documents in which the words of the targets are frequent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from data.selectors.base import SELECTORS, Scorer, SelectorConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s


@SELECTORS.register
class TargetWordsConfig(SelectorConfig):
    """Scores a document by the share of its words that some target has."""

    name: Literal["target_words"] = "target_words"
    min_words: int = Field(3, ge=0, description="Words of the shortest document that is scored.")

    @property
    def uses_targets(self) -> bool:
        return True

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return _Scorer({word for target in targets for word in target.split()}, self.min_words)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(min_words=0))


class _Scorer(Scorer):
    def __init__(self, wanted: set[str], min_words: int) -> None:
        self._wanted, self._min_words = wanted, min_words

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        import numpy as np

        words = [text.split() for text in texts]
        shares = [
            sum(word in self._wanted for word in own) / max(len(own), 1) if len(own) >= self._min_words else np.nan
            for own in words
        ]
        return np.array(shares, dtype=np.float64)
'''


@pytest.mark.parametrize(
    ("file", "content", "tests", "name", "broken", "failing"),
    [
        (
            "data/selectors/target_words.py",
            SELECTOR,
            "tests/data/selectors/test_selector_contract.py",
            "target_words",
            ("for own in words\n        ]", "for own in words[:1]\n        ]"),
            "test_scores_every_text_in_any_batch_and_process",
        ),
        (
            "data/filters/forbidden_word.py",
            FILTER,
            "tests/data/filters/test_filter_contract.py",
            "forbidden_word",
            ('word="line"', 'word="kiln"'),
            "test_keeps_plain_prose",
        ),
        (
            "data/sources/form_feed.py",
            SOURCE,
            "tests/data/sources/test_source_contract.py",
            "form_feed",
            ('.split("\\f")', '.split("\\f")[1:]'),
            "test_the_documents_are_those_of_the_files",
        ),
    ],
)
def test_a_new_file_is_found_and_tested(
    tmp_path: Path, file: str, content: str, tests: str, name: str, broken: tuple[str, str], failing: str
) -> None:
    rooms = copy_rooms(tmp_path, "data", "settings", "tests/data", files={file: content})
    code, found, output = run_contracts(rooms, [tests], keyword=name)
    assert code == 0, output
    assert len(found["PASSED"]) >= 5, "the contract tests did not run over the new file"
    assert all(f"[{name}" in test for test in found["PASSED"]), output
    assert broken[0] in content
    (rooms / file).write_text(content.replace(*broken))
    code, found, output = run_contracts(rooms, [tests], keyword=name)
    assert code == 1, output
    assert any(failing in test for test in found["FAILED"]), output
    assert all(f"[{name}" in test for test in found["FAILED"]), output
