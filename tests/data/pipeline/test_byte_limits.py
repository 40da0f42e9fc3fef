"""Limits on text count its bytes in UTF-8, over all files together."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import zstandard
from made_text import make_config, write_jsonl

from data.pipeline.build import build
from data.pipeline.plan import make_plan
from data.pipeline.steps.tokenize_documents import TrainTokenizer
from data.pipeline.work_folder import WorkFolder
from data.shards.dataset_json import read_dataset

CHARACTERS = "aé€😀"  # of one to four bytes


def texts(letter: str, number: int) -> list[str]:
    return [f"{n} " + letter * 100 for n in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
def test_max_bytes_limits_all_files_of_a_source_together_in_utf8(tmp_path: Path, escaped: bool) -> None:
    """`escaped` makes the file ASCII, where a character of text takes up to twelve bytes."""
    made = [texts(letter, 40) for letter in CHARACTERS]
    for number, some in enumerate(made):
        path = tmp_path / f"{number}.jsonl"
        if escaped:
            write_jsonl(path, some)
        else:
            path.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in some))
    sizes = [len(text.encode()) for some in made for text in some]
    limit = sum(sizes) // 3
    source = {"name": "jsonl", "paths": [str(tmp_path / "*.jsonl")], "max_bytes": limit, "held_out_fraction": 0}
    config = make_config(tmp_path, sources={"made": source}, deduplicate={"exact": False}, task_bytes=5000)
    tasks = len(make_plan(config).tasks)
    assert tasks >= 4
    report = build(config).sources["made"]
    assert limit - tasks <= report.read_bytes < limit + tasks * max(sizes)
    (split,) = [split for split in read_dataset(tmp_path / "shards/made").splits.values() if split.documents]
    assert split.text_bytes == report.read_bytes


@pytest.mark.parametrize("limit", [1, 500, 3001, 10**6])
def test_a_tokenizer_is_trained_on_at_most_train_bytes(tmp_path: Path, limit: int) -> None:
    """However much the samples hold, each part of the input gets its share, and no character is split."""
    work = WorkFolder(tmp_path / "work")
    made = [texts(letter, 5 + 10 * task) for task, letter in enumerate(CHARACTERS)]
    for task, some in enumerate(made):
        with zstandard.open(work.sample(task), "wb") as file:
            file.write(b"".join(orjson.dumps([number, text]) + b"\n" for number, text in enumerate(some)))
    tokenizer = {"vocab_size": 300, "train_bytes": limit}
    config = make_config(tmp_path, tokenizer=tokenizer, deduplicate={"exact": False})
    taken = list(TrainTokenizer(work, config, tasks=len(made)).texts())
    total = sum(len(text.encode()) for some in made for text in some)
    if total <= limit:
        assert taken == [text for some in made for text in some]
        return
    assert limit - 4 * len(made) <= sum(len(text.encode()) for text in taken) <= limit
    assert "�" not in "".join(taken)
    for letter, some in zip(CHARACTERS, made, strict=True):
        size = sum(len(text.encode()) for text in some)
        share = sum(len(text.encode()) for text in taken if letter in text)
        assert abs(share - limit * size / total) <= 8
