"""The contract of sources, tested on the example of every registered source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from read_sources import texts

from data.sources import SOURCES, BadDocument, InputPart, SourceConfig
from settings import UserError

DOCUMENTS = [f"document {number}\né{'x' * (number * 7 % 90)}" for number in range(700)]


def reads_folder(source: SourceConfig, folder: Path) -> bool:
    """Returns whether the source reads what its example wrote, and not an input that is always there."""
    return all(path.is_relative_to(folder) for path in source.files())


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", SOURCES.names())
class TestEverySource:
    def test_each_document_is_read_once_however_the_input_is_divided(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        undivided = texts(source)
        assert len(undivided) > 1
        for part_bytes in (5_000, 300) if reads_folder(source, tmp_path) else (1_000_000,):
            assert Counter(texts(source, part_bytes)) == Counter(undivided)

    def test_the_documents_are_those_of_the_files(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        if reads_folder(source, tmp_path):
            assert Counter(texts(source)) == Counter(DOCUMENTS)

    def test_files_and_parts_are_the_same_again(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        assert source.files()
        assert source.files() == source.files()
        assert source.parts(10_000) == source.parts(10_000)
        assert {part.path for part in source.parts(10_000)} <= set(source.files())

    def test_estimated_sizes_are_about_right(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        size = sum(len(text.encode()) for text in texts(source))
        assert size / 20 < sum(part.bytes for part in source.parts(1 << 40)) < size * 20

    def test_missing_files_are_a_users_mistake(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        if not reads_folder(source, tmp_path):
            return
        for path in source.files():
            path.unlink()
        with pytest.raises(UserError, match=str(tmp_path)):
            source.files()

    def test_damage_becomes_bad_documents_and_not_an_exception(self, name: str, tmp_path: Path) -> None:
        """A truncated file, an empty one, and one of another format; only of text may truncation go unnoticed."""
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        if not reads_folder(source, tmp_path):
            return
        path = source.files()[-1]
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b"", bytes(range(256)) * 40):
            path.write_bytes(damaged)
            items = list(source.read(InputPart(path, len(damaged))))
            if not is_text(damaged):
                assert any(isinstance(item, BadDocument) for item in items)
            assert all(item.where for item in items)

    def test_its_config_reads_back(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name].example(tmp_path, DOCUMENTS)
        assert SOURCES.parse(source.to_plain()) == source
