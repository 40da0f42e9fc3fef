"""The tasks of a build read all of the input once, and do not depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.pipeline.input_fingerprint import fingerprint_input
from data.pipeline.plan import make_plan
from data.sources import RawDocument
from settings import UserError, parse


def write(path: Path, documents: int, length: int = 1000) -> str:
    path.write_text("".join(json.dumps({"text": f"{n} {'x' * length}"}) + "\n" for n in range(documents)))
    return str(path)


def config(folder: Path, sources: dict[str, Any], **more: Any) -> DataConfig:
    return parse(DataConfig, {"shards": str(folder / "shards"), "sources": sources, **more}, source="test")


def test_every_document_is_in_one_task(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", 100), write(tmp_path / "b.jsonl", 50)
    made = config(
        tmp_path, {"a": {"name": "jsonl", "paths": [a]}, "b": {"name": "jsonl", "paths": [b]}}, task_bytes=9000
    )
    plan = make_plan(made)
    assert {task.source for task in plan.tasks} == {"a", "b"}
    assert [task.number for task in plan.tasks if task.source == "b"] == list(range(len(plan.tasks_of("b"))))
    for name, count in (("a", 100), ("b", 50)):
        found = []
        for rank in plan.tasks_of(name):
            for part in plan.tasks[rank].parts:
                found += [item.text for item in made.sources[name].read(part) if isinstance(item, RawDocument)]
        assert [int(text.split()[0]) for text in found] == list(range(count))
        size = (tmp_path / f"{name}.jsonl").stat().st_size
        assert abs(len(plan.tasks_of(name)) - size / 9000) <= 1


def test_workers_and_executor_do_not_matter(tmp_path: Path) -> None:
    sources = {"a": {"name": "jsonl", "paths": [write(tmp_path / "a.jsonl", 100)]}}
    one = config(tmp_path, sources, workers=1)
    other = config(tmp_path, sources, workers=9, executor="slurm", slurm={"partition": "cpu"}, prefetch_batches=2)
    assert make_plan(one) == make_plan(other)
    assert one.recipe() == other.recipe()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("held_out_fraction", 0.2),
        ("filters", ["gopher_quality"]),
        ("deduplicate", {"minhash": True}),
        ("tokenizer", {"vocab_size": 300}),
        ("on_bad_document", "fail"),
        ("shuffle_seed", 1),
        ("task_bytes", 5000),
    ],
)
def test_fields_that_decide_the_bytes_are_in_the_recipe(tmp_path: Path, key: str, value: object) -> None:
    sources = {"a": {"name": "jsonl", "paths": [write(tmp_path / "a.jsonl", 10)]}}
    assert config(tmp_path, sources).recipe() != config(tmp_path, sources, **{key: value}).recipe()


def test_neighbouring_small_files_make_a_task(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03d}.txt").write_text("x" * 100)
    plan = make_plan(config(tmp_path, {"a": {"name": "text", "paths": [str(tmp_path)]}}, task_bytes=1024))
    assert len(plan.tasks) == 10
    files = [part.path.name for task in plan.tasks for part in task.parts]
    assert files == sorted(files)
    assert len(files) == 100


def test_a_cap_is_shared_by_the_tasks_and_does_nothing_above_the_size_of_the_input(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 100)
    source = {"name": "jsonl", "paths": [path]}
    capped = make_plan(config(tmp_path, {"a": {**source, "max_bytes": 20_000}}, task_bytes=9000))
    assert sum(task.max_bytes for task in capped.tasks) <= 20_000
    assert min(task.max_bytes for task in capped.tasks) > 1000
    uncapped = make_plan(config(tmp_path, {"a": {**source, "max_bytes": 10**9}}, task_bytes=9000))
    assert uncapped == make_plan(config(tmp_path, {"a": source}, task_bytes=9000))


def test_task_sizes_grow_with_the_input(tmp_path: Path) -> None:
    small = make_plan(config(tmp_path, {"a": {"name": "jsonl", "paths": [write(tmp_path / "a.jsonl", 100)]}}))
    assert len(small.tasks) == 1
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(40 * 2**30)  # sparse: it takes no room
    plan = make_plan(config(tmp_path, {"a": {"name": "jsonl", "paths": [str(large)]}}))
    assert len(plan.tasks) == 160  # of 256 MiB
    assert plan.bytes == pytest.approx(40 * 2**30, rel=1e-3)


def test_mistakes_name_their_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        make_plan(config(tmp_path, {}))
    with pytest.raises(UserError, match=r'data\.sources\.web\.paths = ".*none\.jsonl" does not exist'):
        make_plan(config(tmp_path, {"web": {"name": "jsonl", "paths": [str(tmp_path / "none.jsonl")]}}))
    with pytest.raises(UserError, match=r'sources: "a/b" cannot be a folder\'s name'):
        config(tmp_path, {"a/b": {"name": "standard_library"}})
    with pytest.raises(UserError, match=r'did you mean "jsonl"'):
        config(tmp_path, {"a": {"name": "jsnl"}})
    with pytest.raises(UserError, match=r"paths: is required"):
        config(tmp_path, {"a": {"name": "jsonl"}})


def test_fingerprints_notice_a_change_at_either_end_and_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, 1000)
    made = config(tmp_path, {"a": {"name": "jsonl", "paths": [str(path)]}})
    before = fingerprint_input(made)
    content = path.read_bytes()
    for position in (10, len(content) // 2 + 5, len(content) - 10):
        path.write_bytes(content[:position] + b"Y" + content[position + 1 :])
        assert fingerprint_input(made) != before
    path.write_bytes(content)
    assert fingerprint_input(made) == before
    path.write_bytes(content + b"\n")
    assert fingerprint_input(made) != before
