"""A run resumes only with the data with which it began: with the same content, in whatever folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import make_shards, write_config

from data.batches.loader import Loader
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.stages import training_data
from settings import UserError, compose
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start
from train.state import TrainState


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path)


def config_of(folder: Path, shards: Path, *overrides: str, **sections: dict[str, Any]) -> RunConfig:
    return compose(RunConfig, write_config(folder, shards, **sections), list(overrides))


def start(config: RunConfig) -> RunFolder:
    open_run(config.run.path, config, Start(world_size=1, inputs=inputs_of(config))).release()
    return RunFolder(config.run.path)


def check(config: RunConfig) -> None:
    check_run(config.run.path, config, inputs_of(config))


def reach(folder: RunFolder, state: TrainState) -> None:
    """Writes the checkpoint that says how far the run is."""
    path = folder.checkpoints / f"step-{state.step:08d}"
    path.mkdir(parents=True)
    (path / "state.json").write_text(json.dumps(state.to_plain()))
    (folder.checkpoints / "latest").write_text(path.name + "\n")


def rebuild(shards: Path, name: str, seed: int = 7) -> None:
    """Writes the source as another build would: other tokens, as many, and their hashes in dataset.json."""
    from made_shards import documents, write_source

    shutil.rmtree(shards / name, ignore_errors=True)
    rng = np.random.default_rng(seed)
    made = documents(rng, tokens=18_300, vocab_size=200)
    write_source(shards, name, train=[made], held_out=[made[:50]], vocab_size=200)


def test_a_source_that_was_rebuilt_is_refused_by_name(tmp_path: Path, shards: Path) -> None:
    config = config_of(tmp_path, shards)
    folder = start(config)
    check(config)
    before = json.loads(folder.record.read_text())["inputs"]
    rebuild(shards, "beta")
    with pytest.raises(UserError) as caught:
        check(config)
    then, now = (inputs["beta"][:16] for inputs in (before["sources"], inputs_of(config).sources))
    assert f'source "beta": SHA-256 {then}… there, SHA-256 {now}… here' in str(caught.value)
    assert "alpha" not in str(caught.value)
    assert "choose another run.name" in str(caught.value)
    with pytest.raises(UserError, match='source "beta"'):
        start(config)
    assert json.loads(folder.record.read_text())["inputs"] == before


def test_the_order_of_a_sources_files_counts(tmp_path: Path, shards: Path) -> None:
    from made_shards import documents, write_source

    rng = np.random.default_rng(0)
    write_source(shards, "gamma", train=[documents(rng, tokens=100) for _ in range(2)])
    config = config_of(tmp_path, shards, **{"data": {"mixture": {"gamma": 1}}})
    start(config)
    path = shards / "gamma/dataset.json"
    info = json.loads(path.read_text())
    info["splits"]["train"]["files"].reverse()
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match='source "gamma"'):
        check(config)


def test_a_description_of_the_source_may_change(tmp_path: Path, shards: Path) -> None:
    config = config_of(tmp_path, shards)
    start(config)
    path = shards / "beta/dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "licence": "another"}))
    check(config)


def test_another_tokenizer_is_refused(tmp_path: Path, shards: Path) -> None:
    config = config_of(tmp_path, shards)
    start(config)
    for name in ("alpha", "beta"):
        path = shards / name / "dataset.json"
        info = json.loads(path.read_text())
        info["tokenizer"]["sha256"] = "0" * 64
        path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"the tokenizer: SHA-256 [0-9a-f]{16}… there, SHA-256 0000000000000000… here"):
        check(config)


def test_shards_may_move_but_not_become_others(tmp_path: Path, shards: Path) -> None:
    start(config_of(tmp_path, shards))
    shards.rename(tmp_path / "elsewhere")
    moved = config_of(tmp_path, tmp_path / "elsewhere")
    check(moved)
    rebuild(tmp_path / "elsewhere", "alpha")
    with pytest.raises(UserError, match='source "alpha"'):
        check(moved)


def test_where_no_hash_was_recorded_shards_may_not_move_and_are_recorded(tmp_path: Path, shards: Path) -> None:
    """Writes the record as an earlier version did."""
    config = config_of(tmp_path, shards)
    folder = start(config)
    folder.record.write_text(json.dumps({"format": 1, "starts": [{"command": "lehr train"}]}))
    shutil.copytree(shards, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data\.shards"):
        check(config_of(tmp_path, tmp_path / "elsewhere"))
    start(config)
    record = json.loads(folder.record.read_text())
    assert len(record["starts"]) == 2
    assert record["inputs"] == json.loads(json.dumps(inputs_of(config).to_plain()))


def test_without_a_mixture_no_source_may_be_new_or_gone(tmp_path: Path, shards: Path) -> None:
    """Weights by tokens are those of all sources."""
    config = config_of(tmp_path, shards)
    start(config)
    rebuild(shards, "gamma")
    with pytest.raises(UserError, match=r'source "gamma": absent there, SHA-256 [0-9a-f]{16}… here'):
        check(config)
    shutil.rmtree(shards / "gamma")
    shutil.rmtree(shards / "beta")
    with pytest.raises(UserError, match=r'source "beta": SHA-256 [0-9a-f]{16}… there, absent here'):
        check(config)


def test_a_later_stage_with_a_new_source_leaves_the_past_alone(tmp_path: Path, shards: Path) -> None:
    mixture = {"alpha": 0.7, "beta": 0.3}
    first = config_of(tmp_path, shards, data={"mixture": mixture})
    folder = start(first)
    reach(folder, TrainState(step=4, left_out=((2, 3),)))  # batches 0 to 5 are over
    rebuild(shards, "another")  # its number comes between those of the others
    stages = [{"from_step": 6, "mixture": {"another": 1, "beta": 1}}]
    grown = config_of(tmp_path, shards, data={"mixture": mixture, "stages": stages})
    start(grown)
    too_early = config_of(tmp_path, shards, data={"mixture": mixture, "stages": [{**stages[0], "from_step": 5}]})
    with pytest.raises(UserError, match=r"stages\.0\.steps: absent there, 5 here"):
        check(too_early)
    assert set(json.loads(folder.record.read_text())["inputs"]["sources"]) == {"alpha", "beta", "another"}
    check(first)  # the stage has not begun
    reach(folder, TrainState(step=8, left_out=((2, 3),)))
    with pytest.raises(UserError, match=r"stages\.1\.mixture"):
        check(first)

    def rows(config: RunConfig) -> list[list[tuple[str, int]]]:
        with Loader(training_data(config), seed=1, seq_length=32, rows_per_step_global=8) as loader:
            names = loader.shards.names
            numbers = [loader.sample_numbers(batch) for batch in range(7)]
        return [[(names[s], int(n)) for s, n in zip(*pair, strict=True)] for pair in numbers]

    assert rows(grown)[:6] == rows(first)[:6]
    assert rows(grown)[6] != rows(first)[6]


def test_how_a_new_source_is_built_may_be_added(tmp_path: Path, shards: Path) -> None:
    data = {"mixture": {"alpha": 1}, "sources": {"alpha": {"name": "text", "paths": ["a"]}}}
    start(config_of(tmp_path, shards, data=data))
    more = {**data["sources"], "gamma": {"name": "text", "paths": ["b"]}}
    check(config_of(tmp_path, shards, data={**data, "sources": more}))
    with pytest.raises(UserError, match=r"data\.sources\.alpha\.paths"):
        check(config_of(tmp_path, shards, data={**data, "sources": {"alpha": {"name": "text", "paths": ["c"]}}}))


def test_a_table_of_lr_is_told_by_its_values(tmp_path: Path, shards: Path) -> None:
    table = tmp_path / "lr.txt"
    table.write_text("1e-3\n2e-3\n3e-3\n")

    def with_table(file: Path, *overrides: str) -> RunConfig:
        plain = json.loads(write_config(tmp_path, shards).read_text())
        plain |= {"schedule": {"name": "table", "file": str(file)}, "train": {**plain["train"], "steps": 3}}
        path = tmp_path / "table.yaml"
        path.write_text(json.dumps(plain))
        return compose(RunConfig, path, list(overrides))

    start(with_table(table))
    table.write_text("1e-3 2e-3 0.003 4e-3 5e-3")  # the same so far, and more of it
    longer = with_table(table, "train.steps=5")
    start(longer)
    moved = table.rename(tmp_path / "moved.txt")
    check(with_table(moved, "train.steps=5"))
    moved.write_text("1e-3 2e-3 3e-3 4e-3 6e-3")
    with pytest.raises(UserError, match=r"schedule\.file, 5 values: SHA-256"):
        check(with_table(moved, "train.steps=5"))
    moved.write_text("1e-3 9e-3 3e-3 4e-3 5e-3")
    with pytest.raises(UserError, match=r"schedule\.file, 3 values: SHA-256"):
        check(with_table(moved))
