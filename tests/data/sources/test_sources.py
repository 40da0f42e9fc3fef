"""The sources one by one: their formats, their fields, and what is wrong with a bad document."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from read_sources import read, texts

from data.sources import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from settings import UserError


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text, "number": 1}).encode() + b"\n" for text in texts)


def reasons(source: SourceConfig) -> Counter[str]:
    return Counter(item.reason if isinstance(item, BadDocument) else "good" for item in read(source))


def test_lines_that_are_not_documents(tmp_path: Path) -> None:
    good = {"text": "good"}
    bad: dict[bytes, str] = {
        b'{"text": "half': "broken_json",
        b"not json": "broken_json",
        b'{"text": NaN}': "missing_field",
        b'{"text": nan}': "broken_json",
        b'{"words": "other"}': "missing_field",
        b'{"text": null}': "missing_field",
        b'{"text": 5}': "missing_field",
        b'["text"]': "missing_field",
        b'{"text": "\xff"}': "invalid_utf8",
        b'{"text": "a\0b"}': "binary",
        b"\x00\x01\x02": "binary",
    }
    path = tmp_path / "x.jsonl"
    for content, reason in bad.items():
        path.write_bytes(json.dumps(good).encode() + b"\n" + content + b"\n\n" + json.dumps(good).encode())
        found = read(SOURCES.parse({"name": "jsonl", "paths": [str(path)]}))
        assert [item.reason if isinstance(item, BadDocument) else item.text for item in found] == [
            "good",
            reason,
            "good",
        ]
        assert str(path) in found[1].where
        assert "byte 17" in found[1].where


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 200), max_size=30), part_bytes=st.integers(1, 400), last=st.booleans())
def test_ranges_of_bytes_hold_each_line_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], part_bytes: int, last: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    content = [f"{number} {'y' * length}" for number, length in enumerate(lengths)]
    path.write_bytes(lines(content) if last else lines(content).rstrip(b"\n"))
    assert texts(SOURCES.parse({"name": "jsonl", "paths": [str(path)]}), part_bytes) == content


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', "9" * 5000])
def test_what_python_writes_in_another_field_drops_no_line(tmp_path: Path, value: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "words", "score": ' + value + "}\n")
    assert texts(SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)]})) == ["words"]


@pytest.mark.parametrize("content", ['[{"text": "a"},\n{"text": "b"}]', "[\n  {}\n]", '\n [ {"text": "a"}]'])
@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_a_json_array_is_no_file_of_lines(tmp_path: Path, content: str, suffix: str) -> None:
    plain = content.encode()
    (tmp_path / f"x.{suffix}").write_bytes(gzip.compress(plain) if suffix.endswith("gz") else plain)
    for part_bytes in (1 << 40, 5):
        items = read(SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)]}), part_bytes)
        assert all(isinstance(item, BadDocument) and "JSON array" in item.detail for item in items)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_line_too_long_is_read_past_in_little_memory(tmp_path: Path, suffix: str) -> None:
    long_line = b'{"text": "' + b"x" * 50_000_000 + b'"}\n'
    content = lines(["before"]) + long_line + lines(["after"])
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix.endswith("gz") else content)
    source = SOURCES.parse({"name": "jsonl", "paths": [str(path)]})
    for count in (1, 3):
        tracemalloc.start()
        parts = [InputPart(path, 0, index, count, max_document_bytes=1000) for index in range(count)]
        items = [item for part in parts for item in source.read(part)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [item.reason if isinstance(item, BadDocument) else item.text for item in items] == [
            "before",
            "too_long",
            "after",
        ]
        assert peak < 10_000_000


def test_a_text_file_too_long_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000), 1))
    tracemalloc.start()
    (item,) = SOURCES.parse({"name": "text", "paths": [str(path)]}).read(InputPart(path, 0, max_document_bytes=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(item, BadDocument)
    assert item.reason == "too_long"
    assert peak < 10_000_000


def test_byte_order_marks_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(["a", "b"]).replace(b"\n", b"\r\n"))
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfwords\r\nmore")
    assert texts(SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)]})) == ["a", "b"]
    assert texts(SOURCES.parse({"name": "text", "paths": [str(tmp_path)]})) == ["words\r\nmore"]


def test_the_text_field_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": "words"}\n')
    assert texts(SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)], "text_field": "body"})) == ["words"]


def test_parquet_rows_that_are_not_documents(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    source = SOURCES.parse({"name": "parquet", "paths": [str(path)]})
    broken = pa.array([b"good", b"\xff\xfe"], type=pa.binary()).view(pa.string())  # as a careless writer leaves it
    pq.write_table(pa.table({"text": broken}), path)
    assert reasons(source) == {"good": 1, "invalid_utf8": 1}
    pq.write_table(pa.table({"text": ["good", None]}), path)
    assert reasons(source) == {"good": 1, "missing_field": 1}
    pq.write_table(pa.table({"text": [1, 2]}), path)
    assert reasons(source) == {"missing_field": 2}
    pq.write_table(pa.table({"words": ["good"]}), path)
    assert reasons(source) == {"unreadable_file": 1}
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), path)
    assert texts(source) == ["a", "b", "a"]
    pq.write_table(pa.table({"text": pa.array(["a", "b"], type=pa.large_string())}), path)
    assert texts(source) == ["a", "b"]


PARQUET_STRINGS = {
    "string": lambda values: pa.array(values, pa.string()),
    "large_string": lambda values: pa.array(values, pa.large_string()),
    "string_view": lambda values: pa.array(values, pa.string_view()),
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "dictionary of large_string": lambda values: pa.array(values, pa.large_string()).dictionary_encode(),
    "arrow.json": lambda values: pa.ExtensionArray.from_storage(pa.json_(), pa.array(values)),
    "large arrow.json": lambda values: pa.ExtensionArray.from_storage(
        pa.json_(pa.large_string()), pa.array(values, pa.large_string())
    ),
    "an opaque type": lambda values: pa.ExtensionArray.from_storage(
        pa.opaque(pa.string(), "type", "vendor"), pa.array(values)
    ),
    "binary": lambda values: pa.array([value.encode() for value in values]),
    "binary_view": lambda values: pa.array([value.encode() for value in values], pa.binary_view()),
}


@pytest.mark.parametrize("name", PARQUET_STRINGS)
def test_every_parquet_type_of_strings_is_text(tmp_path: Path, name: str) -> None:
    values = ["a b", "é", "longer than the twelve bytes that a view holds in place"]
    pq.write_table(pa.table({"text": PARQUET_STRINGS[name](values)}), tmp_path / "x.parquet")
    assert texts(SOURCES.parse({"name": "parquet", "paths": [str(tmp_path)]})) == values


def test_a_view_of_strings_that_are_not_utf8(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"\xff\xfe", None], type=pa.binary_view()).view(pa.string_view())
    pq.write_table(pa.table({"text": broken}), tmp_path / "x.parquet")
    source = SOURCES.parse({"name": "parquet", "paths": [str(tmp_path)]})
    assert reasons(source) == {"good": 1, "invalid_utf8": 1, "missing_field": 1}


def test_text_files_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"GIF89a\0\0\1")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "image.png").write_bytes(b"\0")  # not one of the suffixes
    (tmp_path / ".hidden.txt").write_text("hidden")
    source = SOURCES.parse({"name": "text", "paths": [str(tmp_path)]})
    assert reasons(source) == {"good": 1, "binary": 1, "invalid_utf8": 1}


def test_paths_files_folders_and_globs(tmp_path: Path) -> None:
    names = ["b/2.jsonl", "a/1.jsonl", "a/x/3.jsonl", "a/no.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "t"}\n')

    def files(*paths: str) -> list[str]:
        source = SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path / path) for path in paths]})
        return [str(file.relative_to(tmp_path)) for file in source.files()]

    assert files("a") == ["a/1.jsonl", "a/x/3.jsonl"]
    assert files("b", "a/1.jsonl") == ["b/2.jsonl", "a/1.jsonl"]
    assert files("*/*.jsonl", "a") == ["a/1.jsonl", "b/2.jsonl", "a/x/3.jsonl"]  # none twice
    assert files("**/*.jsonl") == ["a/1.jsonl", "a/x/3.jsonl", "b/2.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*no file under this folder ends in .*\.jsonl"):
        files("empty")


def test_shakespeare_in_passages_of_one_edition(tmp_path: Path) -> None:
    lines_of_play = [f"Line {n}." for n in range(300)]
    source = SOURCES["shakespeare"].example(tmp_path, lines_of_play)
    modern = texts(source.model_copy(update={"passage_bytes": 100}))
    assert "\n\n".join(modern) == "\n\n".join(lines_of_play)
    assert all(100 <= len(passage) < 150 for passage in modern[:-1])
    assert texts(source.model_copy(update={"edition": "folio"})) == ["the same in another spelling"]


def test_the_standard_library_is_this_pythons(tmp_path: Path) -> None:
    source = SOURCES.parse("standard_library")
    names = {file.name for file in source.files()}
    assert {"json", "random.py", "pathlib.py"} & names == {"random.py", "pathlib.py"}
    assert not any("site-packages" in file.parts or "test" in file.parts for file in source.files())
    assert Path(random.__file__) in source.files()


def test_compressed_files_of_several_frames(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.zst").write_bytes(b"".join(zstandard.compress(lines([f"{n}"])) for n in range(300)))
    (tmp_path / "y.jsonl.gz").write_bytes(b"".join(gzip.compress(lines([f"{n}"])) for n in range(300, 600)))
    found = texts(SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)]}))
    assert found == [f"{n}" for n in range(600)]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_file_is_noticed_and_its_beginning_is_read(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(0)
    words = [" ".join(str(rng.random()) for _ in range(20)) for _ in range(2000)]
    complete = gzip.compress(lines(words)) if suffix == "gz" else zstandard.compress(lines(words))
    source = SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path / f"x.jsonl.{suffix}")]})
    for cut in (1, 5, len(complete) // 3, len(complete) - 9, len(complete) - 1):
        (tmp_path / f"x.jsonl.{suffix}").write_bytes(complete[:cut])
        *documents, end = read(source)
        assert isinstance(end, BadDocument), cut
        read_well = [item.text for item in documents if isinstance(item, RawDocument)]
        assert read_well == words[: len(read_well)]
        assert cut < len(complete) // 3 or len(read_well) > 500


def test_a_compressed_file_is_dealt_out_in_blocks_of_lines(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines([f"{n}" for n in range(2000)])))
    source = SOURCES.parse({"name": "jsonl", "paths": [str(tmp_path)]})
    parts = source.parts(1000)
    assert len(parts) > 4
    counts = [len(list(source.read(part))) for part in parts]
    assert sum(counts) == 2000
    assert max(counts[:4]) < 2000 / 2


def test_files_of_an_archive_are_divided_at_the_ends_of_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {number} {'x' * 50}" for number in range(10)]
    with zipfile.ZipFile(tmp_path / "a-1.whl", "w") as wheel:
        wheel.writestr("a/docs/deep/one.rst", "\r\n\r\n".join(paragraphs))
        wheel.writestr("a/docs/two.rst", "second")
        wheel.writestr("a/code.py", "code")
        wheel.writestr("a/docs/picture.rst", b"\0")
    source = {"name": "archive", "archive": str(tmp_path / "*.whl"), "passage_bytes": 100}
    items = read(SOURCES.parse({**source, "members": ["*.rst"]}))
    assert [item.text for item in items if isinstance(item, RawDocument)] == [
        *("\n\n".join(paragraphs[first : first + 2]) for first in range(0, 10, 2)),
        "second",
    ]
    assert [item.reason for item in items if isinstance(item, BadDocument)] == ["binary"]
    assert texts(SOURCES.parse({**source, "members": ["docs/t*.rst", "*.py"]})) == ["second", "code"]


def test_members_of_an_archive_that_are_not_there_are_a_fault_of_the_input(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a-1.whl", "w") as wheel:
        wheel.writestr("a/one.txt", "x" * 100)
    source = SOURCES.parse({"name": "archive", "archive": str(tmp_path / "*.whl"), "members": ["*.rst", "b/*"]})
    assert [(item.reason, item.detail) for item in read(source) if isinstance(item, BadDocument)] == [
        ("unreadable_file", 'no member matches "*.rst" or "b/*"')
    ]
    source = SOURCES.parse({"name": "archive", "archive": str(tmp_path / "*.whl")})
    assert reasons(source) == {"good": 1}
    (part,) = source.parts(1 << 40)
    (item,) = source.read(replace(part, max_document_bytes=99))
    assert isinstance(item, BadDocument)
    assert item.reason == "too_long"
