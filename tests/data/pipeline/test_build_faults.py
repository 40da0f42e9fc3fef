"""Faults of a build: it stops, resumes or refuses, and never leaves a folder that looks finished."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datatrove.utils.dataset import DatatroveFolderDataset
from made_text import config_file, hashes, make_config, make_text, write_jsonl

from data.config import DataConfig
from data.pipeline import open_work_folder
from data.pipeline.build import build
from data.pipeline.input_fingerprint import fingerprint_input
from data.pipeline.progress import Progress, StoppedError
from data.pipeline.work_folder import WorkFolder
from data.shards.dataset_json import SPLITS, read_dataset
from settings import UserError

pytestmark = pytest.mark.slow  # each test builds shards, some several times


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", [make_text(seed) for seed in range(400)])
    return tmp_path


@pytest.fixture
def undisturbed(folder: Path) -> dict[str, str]:
    """The hashes of a build that nothing disturbed."""
    build(make_config(folder, "undisturbed"))
    return hashes(folder / "undisturbed")


def work_folder(config: DataConfig) -> WorkFolder:
    return open_work_folder.work_folder_of(config, fingerprint_input(config))


class StopAfter:
    """Stops a build at the n-th poll."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopped_again_and_again_it_ends_in_the_same_bytes(folder: Path, undisturbed: dict[str, str]) -> None:
    stops = 0
    for polls in range(1, 200):
        try:
            build(make_config(folder), stop=StopAfter(polls))
            break
        except StoppedError:
            stops += 1
            assert not (folder / "shards").exists()
    assert stops >= 3
    assert hashes(folder / "shards") == undisturbed
    assert not list(folder.glob(".shards.building-*"))


def test_an_unfinished_build_of_another_config_is_not_continued(folder: Path) -> None:
    other = make_config(folder, filters=[{"name": "gopher_quality", "min_words": 5}], tokenizer={"vocab_size": 280})
    with pytest.raises(StoppedError):
        build(make_config(folder), stop=StopAfter(4))
    lines: list[str] = []
    build(other, log=lines.append)
    assert any("unfinished build of another config" in line for line in lines)
    fresh = other.model_copy(update={"shards": folder / "fresh"})
    build(fresh)
    assert hashes(folder / "shards") == hashes(folder / "fresh")


def test_changed_input_starts_an_unfinished_build_afresh(folder: Path) -> None:
    with pytest.raises(StoppedError):
        build(make_config(folder), stop=StopAfter(4))
    write_jsonl(folder / "made.jsonl", [make_text(seed) for seed in range(1000, 1300)])
    build(make_config(folder))
    build(make_config(folder, "fresh"))
    assert hashes(folder / "shards") == hashes(folder / "fresh")


def test_continuing_is_logged_and_progress_is_reported(folder: Path) -> None:
    with pytest.raises(StoppedError):
        build(make_config(folder), stop=StopAfter(4))
    lines: list[str] = []
    reports: list[Progress] = []
    build(make_config(folder), log=lines.append, report=reports.append)
    assert any("continuing the unfinished build" in line for line in lines)
    assert reports
    assert all(0 <= progress.share_done <= 1 for progress in reports)
    assert [progress.number for progress in reports] == sorted(progress.number for progress in reports)
    assert "documents" in reports[-1].line()


def test_a_task_without_documents_leaves_no_empty_shard(folder: Path) -> None:
    """Few are held out, so most tasks have none of that split; datatrove's merger and readers trip over empty files."""
    build(make_config(folder, held_out_fraction=0.02))
    made = folder / "shards" / "made"
    info = read_dataset(made)
    assert len(info.splits["train"].files) > len(info.splits["held_out"].files) > 0
    for split in SPLITS:
        on_disk = sorted(path.relative_to(made).as_posix() for path in (made / split).glob("*.ds"))
        assert on_disk == sorted(file.path for file in info.splits[split].files)
        assert all(path.stat().st_size for path in (made / split).iterdir())
    dataset = DatatroveFolderDataset(str(made / "train"), seq_len=32, token_size=info.token_bytes)
    first = np.fromfile(made / info.splits["train"].files[0].path, dtype="<u2", count=33)
    assert dataset[0]["input_ids"].tolist() == first.tolist()


def test_filters_may_drop_all_documents_of_a_task(folder: Path) -> None:
    texts = ["too short"] * 200 + [make_text(seed) for seed in range(300)] + ["too short"] * 200
    write_jsonl(folder / "made.jsonl", texts)
    result = build(make_config(folder, filters=["gopher_quality"], task_bytes=15_000, deduplicate={"exact": False}))
    assert result.sources["made"].filtered["gopher_short_doc"] == 400
    info = read_dataset(folder / "shards" / "made")
    assert sum(info.splits[split].documents for split in SPLITS) == 300
    metadata = (folder / "shards" / "made" / f"{info.splits['train'].files[0].path}.metadata").read_text().splitlines()
    assert metadata[0] == f"tokenizer.json|{info.token_bytes}"


def test_a_full_disk_is_reported_and_the_build_continues_when_there_is_room(
    folder: Path, undisturbed: dict[str, str]
) -> None:
    config = make_config(folder)
    work = work_folder(config)
    full = work.documents(1)
    full.symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(UserError, match=r"disk of .* is full .*make room") as error:
        build(config)
    assert str(work.path) in str(error.value)
    assert not (folder / "shards").exists()
    full.unlink()
    build(config)
    assert hashes(folder / "shards") == undisturbed


def test_a_quota_for_file_sizes_is_a_full_disk(folder: Path) -> None:
    path = config_file(folder, make_config(folder))
    # Python would cut its own bytecode short too, and every later start would read it.
    limits = "export PYTHONDONTWRITEBYTECODE=1; ulimit -f 8"
    command = ["bash", "-c", f"{limits}; exec {Path(sys.executable).parent / 'lehr'} data build {path}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert "is full" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_document_of_100_mb(folder: Path) -> None:
    with (folder / "made.jsonl").open("a") as file:
        file.write(json.dumps({"text": make_text(1, words=1000) * 24_000}) + "\n")
    assert (folder / "made.jsonl").stat().st_size > 100_000_000
    result = build(make_config(folder, task_bytes=0))
    assert result.sources["made"].bad == {"too_long": 1}
    assert "bytes, over data.max_document_bytes" in (folder / "shards" / "made.bad_documents.jsonl").read_text()
    with pytest.raises(UserError, match=r"too_long at .*made\.jsonl"):
        build(make_config(folder, "strict", task_bytes=0, on_bad_document="fail"))


def test_a_binary_file_among_texts(folder: Path) -> None:
    texts = folder / "texts"
    texts.mkdir()
    for seed in range(50):
        (texts / f"{seed}.txt").write_text(make_text(seed))
    (texts / "image.txt").write_bytes(bytes(range(256)) * 100)
    sources = {"files": {"name": "text", "paths": [str(texts)]}}
    result = build(make_config(folder, sources=sources))
    assert result.sources["files"].bad == {"binary": 1}
    listed = json.loads((folder / "shards" / "files.bad_documents.jsonl").read_text())
    assert listed["where"].endswith("image.txt")
    with pytest.raises(UserError, match=r"data\.sources\.files: binary at .*image\.txt"):
        build(make_config(folder, "strict", sources=sources, on_bad_document="fail"))


def test_an_empty_source_is_left_out_or_refused(folder: Path) -> None:
    (folder / "none.jsonl").write_text("")
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in ("made", "none")}
    result = build(make_config(folder, sources=sources))
    assert "left out, no document stays" in result.sources["none"].line("none")
    assert not (folder / "shards" / "none").exists()
    with pytest.raises(UserError, match=r"data\.sources\.none has no document left"):
        build(make_config(folder, "strict", sources=sources, on_bad_document="fail"))
    assert not (folder / "strict").exists()


def test_two_builds_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(folder)
    work = work_folder(config)
    work.path.mkdir()
    monkeypatch.setattr(open_work_folder, "_SECONDS_FOR_THE_LOCK", 0.2)
    with (work.path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build of the same shards is running"):
            build(config)
    build(config)


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "shards").mkdir()
    build(make_config(folder))  # an empty folder is no obstacle
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="was not made by `lehr data build`"):
        build(make_config(folder, "other"))
    assert (folder / "other" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UserError, match=r"made\.jsonl is not a folder"):
        build(make_config(folder, "made.jsonl/shards"))


def test_shards_outlive_their_input(folder: Path) -> None:
    build(make_config(folder))
    (folder / "made.jsonl").unlink()
    lines: list[str] = []
    assert build(make_config(folder), log=lines.append).already_built
    assert "no longer there" in lines[0]


def test_a_cap_on_the_text_of_a_source(folder: Path) -> None:
    sources = {"made": {"name": "jsonl", "paths": [str(folder / "made.jsonl")], "max_bytes": 50_000}}
    result = build(make_config(folder, sources=sources))
    assert 40_000 < result.sources["made"].read_bytes < 60_000


def test_a_source_may_have_filters_of_its_own(folder: Path) -> None:
    source = {"name": "jsonl", "paths": [str(folder / "made.jsonl")]}
    sources = {"strict": source, "free": {**source, "filters": []}}
    filters = [{"name": "gopher_quality", "min_words": 1000}]
    result = build(make_config(folder, sources=sources, filters=filters, deduplicate={"exact": False}))
    assert sum(result.sources["strict"].documents.values()) == 0
    assert sum(result.sources["free"].documents.values()) == 400


def test_a_source_may_be_left_out_of_deduplication(folder: Path) -> None:
    """Its documents stay, and those of other sources are not compared with them."""
    texts = [*(make_text(seed) for seed in range(40)), make_text(7)]
    for name in ("web", "more", "sums"):
        write_jsonl(folder / f"{name}.jsonl", texts)
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in ("sums", "web", "more")}
    without = {**sources, "sums": {**sources["sums"], "deduplicate": False}}
    result = build(make_config(folder, sources=without))
    kept = {name: sum(source.documents.values()) for name, source in result.sources.items()}
    assert kept == {"sums": 41, "web": 40, "more": 0}
    none = {name: {**source, "deduplicate": False} for name, source in sources.items()}
    result = build(make_config(folder, "none", sources=none))
    assert [sum(source.documents.values()) for source in result.sources.values()] == [41, 41, 41]


def test_shards_of_a_version_with_fewer_keys_are_found_and_another_value_is_still_refused(folder: Path) -> None:
    config = make_config(folder)
    build(config)
    record = folder / "shards/build.json"
    plain = json.loads(record.read_text())
    del plain["recipe"]["deduplicate"]["text"], plain["recipe"]["sources"]["made"]["deduplicate"]
    record.write_text(json.dumps(plain))
    assert build(config).already_built
    with pytest.raises(UserError, match=r"data\.deduplicate\.text: was .simplified., now .raw."):
        build(make_config(folder, deduplicate={"minhash": True, "text": "raw"}))


def test_a_tokenizer_replaced_in_place_is_not_taken_for_the_old_one(folder: Path) -> None:
    """The config is unchanged, but the file at its path is another tokenizer."""
    build(make_config(folder, "other", tokenizer={"vocab_size": 280}))
    build(make_config(folder, "small"))
    mine = folder / "mine.json"
    shutil.copyfile(folder / "small/tokenizer.json", mine)
    with_mine = make_config(folder, tokenizer={"path": str(mine)})
    build(with_mine)
    assert build(with_mine).already_built
    before = hashes(folder / "shards")
    shutil.copyfile(folder / "other/tokenizer.json", mine)
    with pytest.raises(
        UserError, match=r"data.tokenizer.path = .*mine.json is not the tokenizer that .*shards/made was"
    ):
        build(with_mine)
    assert hashes(folder / "shards") == before
    mine.unlink()  # the shards have a copy
    assert build(with_mine).already_built


def test_shards_whose_own_tokenizer_was_altered_are_not_taken_for_built(folder: Path) -> None:
    build(make_config(folder))
    build(make_config(folder, "other", tokenizer={"vocab_size": 280}))
    shutil.copyfile(folder / "other/tokenizer.json", folder / "shards/tokenizer.json")
    with pytest.raises(UserError, match=r"shards/tokenizer.json was altered since the shards were built"):
        build(make_config(folder))
