"""Files that cannot be read to their end: they end a build, or are named and counted once, in bytes."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from made_text import make_config, make_text, write_jsonl

from data.pipeline.build import build
from data.shards.dataset_json import read_dataset
from settings import UserError

pytestmark = pytest.mark.slow  # each test builds shards, some several times


def damage(path: Path, texts: list[str]) -> None:
    """Write a .gz file that ends early."""
    content = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    path.write_bytes(content[: len(content) * 9 // 10])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", [make_text(seed) for seed in range(200)])
    damage(tmp_path / "damaged.jsonl.gz", [make_text(seed) for seed in range(1000, 3000)])
    return tmp_path


def sources(folder: Path, *names: str) -> dict[str, object]:
    return {"made": {"name": "jsonl", "paths": [str(folder / name) for name in names]}}


def test_a_damaged_file_ends_the_build_or_is_counted_once(folder: Path) -> None:
    """The file is large enough for several tasks, which all meet the damage."""
    given = sources(folder, "made.jsonl", "damaged.jsonl.gz")
    with pytest.raises(
        UserError, match=r"damaged\.jsonl\.gz \([0-9,]+ bytes\) cannot be read to its end: .*on_bad_file"
    ):
        build(make_config(folder, sources=given))
    assert not (folder / "shards").exists()
    report = build(make_config(folder, sources=given, on_bad_file="skip")).sources["made"]
    (file,) = report.bad_files.items()
    size = (folder / "damaged.jsonl.gz").stat().st_size
    assert file[0].endswith("damaged.jsonl.gz")
    assert file[1].bytes == size
    assert not report.bad
    assert report.read > 1000
    assert f"1 file of {size:,} bytes not read to its end" in report.line("made")
    assert build(make_config(folder, sources=given)).already_built  # the shards are the same whatever on_bad_file says


def test_a_file_that_is_no_zstd_is_not_one_bad_document(folder: Path) -> None:
    (folder / "lost.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    given = sources(folder, "made.jsonl", "lost.jsonl.zst")
    with pytest.raises(UserError, match=r"lost\.jsonl\.zst \(104 bytes\)"):
        build(make_config(folder, sources=given))


def test_file_names_that_are_not_utf8(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    write_jsonl(folder / name, [make_text(seed) for seed in range(100)] + [""])
    config = make_config(folder, sources=sources(folder, name))
    assert build(config).sources["made"].bad == {"empty": 1}
    assert build(config).already_built
    listed = json.loads((folder / "shards" / "made.bad_documents.jsonl").read_text())
    assert r"caf\xe9.jsonl" in listed["where"]


def test_an_input_file_that_cannot_be_opened_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(
        path: Path, *args: object, **more: object
    ) -> object:  # root may read everything, so a mode is not enough
        if path.name == "made.jsonl" and args[:1] == ("rb",):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"data\.sources\.made: .*Permission denied: .*made\.jsonl"):
        build(make_config(folder))


def test_unread_files_of_folders_are_counted_in_one_line(folder: Path) -> None:
    (folder / "in").mkdir()
    write_jsonl(folder / "in" / "a.jsonl", [make_text(seed) for seed in range(100)])
    for name in ("b.csv", "c.csv", ".d.jsonl"):
        (folder / "in" / name).write_text("x")
    lines: list[str] = []
    build(make_config(folder, sources=sources(folder, "in")), log=lines.append)
    assert "data.sources.made: 3 files in its folders are not read: 2 end in .csv, 1 hidden" in lines


def test_one_large_window_at_a_time(folder: Path) -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    for number in range(3):
        content = "".join(json.dumps({"text": make_text(1000 * number + seed)}) + "\n" for seed in range(60)).encode()
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        (folder / f"{number}.jsonl.zst").write_bytes(compressor.compress(content) + compressor.flush())
    names = [f"{number}.jsonl.zst" for number in range(3)]
    result = build(make_config(folder, sources=sources(folder, *names), task_bytes=1000))
    assert result.sources["made"].read == 180
    assert sum(split.documents for split in read_dataset(folder / "shards" / "made").splits.values()) == 180
