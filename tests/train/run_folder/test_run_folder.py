"""The run folder: its records, and the configs with which a run may resume."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from launcher.run.config import RunSettings
from model.config import ModelConfig
from model.objectives import NextTokenConfig
from parallel.config import ParallelConfig
from settings import Settings, UserError, compose
from settings.paths import with_absolute_paths
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start, recorded_choices


class Config(Settings):
    """The sections that have a default or need few keys."""

    run: RunSettings
    model: ModelConfig = ModelConfig(num_layers=1, hidden_size=8, num_heads=1, ffn_size=8)
    parallel: ParallelConfig = ParallelConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


def make(**train: Any) -> Config:
    plain = {"steps": 10, "seq_length": 8, "global_batch_size": 4, **train}
    return Config.model_validate({"run": {"name": "try"}, "train": plain})


def opened(path: Path, config: Settings, **more: Any) -> RunFolder:
    open_run(path, config, Start(**more))
    return RunFolder(path)


def test_a_new_folder_holds_the_config_and_how_it_was_started(tmp_path: Path) -> None:
    config = make()
    folder = opened(tmp_path / "try", config, world_size=4, command=["lehr", "train", "a b.yaml", "train.steps=10"])
    text = folder.config.read_text()
    assert text.startswith("# lehr train 'a b.yaml' train.steps=10\n")
    assert compose(Config, folder.config) == with_absolute_paths(config)
    record = json.loads(folder.record.read_text())
    (start,) = record["starts"]
    assert start["host"] == platform.node()
    assert start["ranks"] == 4
    assert recorded_choices(folder.path) == {}
    opened(tmp_path / "try", config, world_size=4, choices={"attention_kernel": "varlen"})
    opened(tmp_path / "try", config, world_size=4)
    assert recorded_choices(folder.path) == {
        "attention_kernel": "varlen",
        "cross_entropy_kernel": "torch",
        "compiled": False,
    }
    assert start["versions"]["torch"].startswith("2.")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", start["date"])
    assert folder.logs.is_dir()
    assert folder.checkpoints.is_dir()
    assert [path.name for path in folder.path.glob(".*")] == []  # nothing half-written stays


@pytest.mark.slow
def test_the_commit_is_recorded_with_whether_files_differ_from_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    room = source / "train"
    room.mkdir(parents=True)
    root = Path(__file__).parents[3]
    for name in ("__init__.py", "state.py"):
        shutil.copy(root / "train" / name, room / name)
    shutil.copytree(root / "settings", source / "settings", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    def recorded() -> str:
        print_commit = f"print(start_record.git_commit(Path({str(room)!r})))"
        code = f"from pathlib import Path; from train.run_folder import start_record; {print_commit}"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert recorded() == commit
    (source / "new.py").write_text("")
    assert recorded() == commit + "+changes"
    shutil.rmtree(source / ".git")
    assert recorded() == "None"


def test_every_start_is_added(tmp_path: Path) -> None:
    for world_size in (1, 2):
        folder = opened(tmp_path / "try", make(), world_size=world_size)
    assert [start["ranks"] for start in json.loads(folder.record.read_text())["starts"]] == [1, 2]


def test_another_config_is_refused_with_every_key_that_differs(tmp_path: Path) -> None:
    open_run(tmp_path / "try", make(), Start(world_size=1))
    before = (tmp_path / "try" / "config.yaml").read_bytes()
    other = make(seq_length=16, precision="bfloat16", steps=20)
    for action in (
        lambda: check_run(tmp_path / "try", other),
        lambda: open_run(tmp_path / "try", other, Start(world_size=1)),
    ):
        with pytest.raises(UserError) as caught:
            action()
        message = str(caught.value)
        assert "train.seq_length: 8 there, 16 here" in message
        assert 'train.precision: "float32" there, "bfloat16" here' in message
        assert "train.steps" not in message
        assert "another run.name" in message
    assert (tmp_path / "try" / "config.yaml").read_bytes() == before


def test_what_does_not_change_the_run_may_change(tmp_path: Path) -> None:
    open_run(tmp_path / "try", make(), Start(world_size=1))
    changed = make(steps=20, micro_batch_size=2, recompute="full").model_copy(
        update={
            "parallel": ParallelConfig(tensor=2, zero=0),
            "evaluate": EvaluateConfig(every_steps=7),
            "model": make().model.model_copy(update={"objective": NextTokenConfig(chunk_tokens=64)}),
        }
    )
    folder = opened(tmp_path / "try", changed, world_size=2)
    assert compose(Config, folder.config) == with_absolute_paths(changed)


def test_a_key_that_was_not_known_then_has_its_default(tmp_path: Path) -> None:
    folder = opened(tmp_path / "try", make(), world_size=1)
    plain = yaml.safe_load(folder.config.read_text())
    del plain["train"]["precision"]
    folder.config.write_text(yaml.safe_dump(plain))
    check_run(tmp_path / "try", make())
    with pytest.raises(UserError, match=r"train\.precision"):
        check_run(tmp_path / "try", make(precision="bfloat16"))


def test_a_key_that_is_known_no_more_is_named(tmp_path: Path) -> None:
    folder = opened(tmp_path / "try", make(), world_size=1)
    plain = yaml.safe_load(folder.config.read_text())
    plain["train"]["candles"] = 3
    folder.config.write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match=r"train\.candles: 3 there, absent here"):
        check_run(tmp_path / "try", make())


@pytest.mark.parametrize("content", ["checkpoints/step-00000004", "checkpoints/latest", "metrics.jsonl"])
def test_a_run_without_its_config_is_not_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "try" / content).mkdir(parents=True)
    with pytest.raises(UserError, match="without its config"):
        check_run(tmp_path / "try", make())


def test_a_file_in_the_way_and_a_broken_config_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        check_run(tmp_path / "file", make())
    folder = opened(tmp_path / "try", make(), world_size=1)
    folder.config.write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        check_run(tmp_path / "try", make())


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check_run(tmp_path / "try", make())
    assert not (tmp_path / "try").exists()


def test_a_record_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    folder = opened(tmp_path / "try", make(), world_size=1)
    folder.record.write_text("{")
    open_run(tmp_path / "try", make(), Start(world_size=1))
    assert folder.record.with_suffix(".unreadable").read_text() == "{"
    assert len(json.loads(folder.record.read_text())["starts"]) == 1


class Optimizer(Settings):
    """A method, like the configs of a registry."""

    name: str
    lr: float = 1.0
    options: dict[str, int] = Field({})


class Methods(Settings):
    """Sections with methods."""

    optim: Optimizer
    filters: tuple[Optimizer, ...] = ()


def test_another_method_is_told_by_its_name_alone(tmp_path: Path) -> None:
    open_run(tmp_path / "try", Methods(optim=Optimizer(name="adamw")), Start(world_size=1))
    other = Methods(optim=Optimizer(name="muon", lr=2.0, options={"a": 1}))
    with pytest.raises(UserError) as caught:
        check_run(tmp_path / "try", other)
    shown = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert shown == ['  optim.name: "adamw" there, "muon" here']


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    open_run(tmp_path / "try", Methods(optim=Optimizer(name="adamw")), Start(world_size=1))
    other = Methods(optim=Optimizer(name="adamw", options={str(number): number for number in range(30)}))
    with pytest.raises(UserError, match="and 19 more"):
        check_run(tmp_path / "try", other)
