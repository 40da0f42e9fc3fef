"""The config.yaml of a run folder means the run that lies there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import lehr

from launcher.run.config import RunConfig, load_run_config
from launcher.run.input_hashes import inputs_of
from settings import UserError, compose, to_yaml
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start


@pytest.fixture
def run(config: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was started with relative paths in the folder `project`, below which it lies."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(shards, project / "shards")
    monkeypatch.chdir(project)
    started = compose(RunConfig, config, ["run.folder=runs", "data.shards=shards"])
    open_run(started.run.path, started, Start(world_size=1, inputs=inputs_of(started))).release()
    return project / "runs/try"


def test_the_folder_that_the_config_lies_in_is_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "archive é/kept_1"
    for place in (run, moved):
        if place != run:
            place.parent.mkdir()
            run.rename(place)
        for folder, spelled in ((tmp_path, place / "config.yaml"), (place, Path("config.yaml"))):
            monkeypatch.chdir(folder)
            config = load_run_config(spelled)
            assert config.run.path.absolute() == place
            assert config.data.shards.is_dir()
            check_run(config.run.path, config, inputs_of(config))


def test_overrides_and_copies_still_begin_other_runs(run: Path, tmp_path: Path) -> None:
    assert load_run_config(run / "config.yaml", ["run.name=other"]).run.path == run.parent / "other"
    assert load_run_config(run / "config.yaml", ["run.folder=/else"]).run.path == Path("/else/try")
    copied = shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    assert load_run_config(copied, ["run.name=copy"]).run.path == run.parent / "copy"


def test_a_branch_of_a_branch_keeps_the_optimizer_unless_it_says_otherwise(run: Path) -> None:
    path = run / "config.yaml"
    begun = load_run_config(path, ["branch.run=base", "branch.step=8", "branch.optimizer=reset"])
    path.write_text(to_yaml(begun))
    assert load_run_config(path).branch == begun.branch
    again = load_run_config(path, ["run.name=next", "branch.run=runs/try", "branch.step=9"])
    assert again.branch.optimizer == "keep"
    assert load_run_config(path, ["branch.run=a", "branch.optimizer=reset"]).branch.optimizer == "reset"


def test_the_config_that_started_a_run_goes_on_with_it(run: Path, config: Path) -> None:
    given = compose(RunConfig, config, ["run.folder=runs", "data.shards=shards"])
    check_run(given.run.path, given, inputs_of(given))
    config.write_text(to_yaml(given))
    assert lehr("config", "diff", config, run).returncode == 0
    (run / "run.json").unlink()  # without hashes, the paths are compared
    check_run(given.run.path, given, inputs_of(given))
    elsewhere = compose(RunConfig, config, ["run.folder=runs", "data.shards=others"])
    with pytest.raises(UserError, match=r"data\.shards: .*/shards. there, .*/others. here"):
        check_run(elsewhere.run.path, elsewhere)
