"""The mistakes of a first day: every command with the wrong argument prints one message and exits with 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_runs import LLAMA, refused, write_config

# The contents of files that are given as a config.
NO_CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing yet\n",
    "tabs": b"run:\n\tname: x\n",
    "list": b"- run\n- data\n",
    "scalar": b"hello\n",
    "number": b"12\n",
    "null": b"null\n",
    "open bracket": b"run: {name: x\n",
    "two documents": b"run: {name: x}\n---\nrun: {name: y}\n",
    "a key twice": b"run: {name: x}\nrun: {name: y}\n",
    "python tag": b"run: !!python/object/apply:os.getcwd []\n",
    "binary": bytes(range(256)),
    "utf-16": "run: {name: x}\n".encode("utf-16"),
    "number keys": b"1: {2: 3}\n",
    "sections that are text": b"run: x\ndata: y\nmodel: z\ntrain: 3\noptim: adamw\nschedule: cosine\n",
    "sections that are lists": b"run: []\ndata: []\nmodel: []\ntrain: []\noptim: []\nschedule: []\n",
    "sections that are null": b"run:\ndata:\nmodel:\ntrain:\noptim:\nschedule:\n",
    "missing interpolation": b"run: {name: '${nowhere}'}\n",
    "endless interpolation": b"run: {name: '${run.name}'}\n",
}
OF_CONFIGS = ("train", "data build")
# Commands, in which {file}, {folder}, {nowhere} and {config} (a valid one) are filled in.
WRONG = [
    "train {folder}",
    "train {nowhere}",
    "data build {folder}",
    "data build {nowhere}",
    "data inspect {nowhere}",
    "data inspect {file}",
    "data inspect {folder}",
    "eval {nowhere}",
    "eval {file}",
    "eval {folder}",
    "eval {config}",
    "generate {nowhere} text",
    "generate {file} text",
    "generate {folder} text",
    "export {nowhere} {folder}/out",
    "export {file} {folder}/out",
    "export {folder} {folder}/out",
    "import {nowhere}",
    "import {file}",
    "import {folder}",
    "import {folder} {config}",
    "plot {nowhere}",
    "plot {file}",
    "plot {folder}",
    "law fit {nowhere}",
    "law fit {file}",
    "law fit {folder}",
    "law fit {file} --law nothing",
    "law fit {config}",
    "law predict {nowhere} schedule=cosine train.steps=10",
    "law predict {file} schedule=cosine train.steps=10",
    "law predict {folder} schedule=cosine train.steps=10",
    "law compute {nowhere}",
    "law compute {file}",
    "law compute {folder}",
    "law batch {nowhere} --loss 3",
    "law batch {folder} --loss 3",
    "law hyperparameters --parameters -1 --tokens 5",
    "law hyperparameters",
]
OVERRIDES = [
    "train.steps",
    "=3",
    "train.steps=",
    "train.steps=-1",
    "train.steps=0",
    "train.steps=1.5",
    "train.steps=true",
    "train.steps=[1]",
    "train.steps={a: 1}",
    "train.steps=null",
    "train.steps={",
    "train.stepz=3",
    "trian.steps=3",
    "train=3",
    "train..steps=3",
    "train.steps.more=3",
    "model.num_heads=0",
    "model.num_heads=5",
    "model.hidden_size=-32",
    "model.norm=batchnorm",
    "model.norm.epz=1",
    "model.norm.eps=0",
    "model.vocab_size=10",
    "optim=sgdd",
    "optim.lr=fast",
    "optim.lr=-1",
    "optim.lr=.inf",
    "optim.lr=.nan",
    "schedule=cosin",
    "schedule.warmup_steps=-1",
    "schedule.warmup_steps=99",
    "parallel.tensor=0",
    "parallel.tensor=3",
    "parallel.zero=4",
    "parallel.pipeline=-2",
    "run.name=../escape",
    "run.name=",
    "run.seed=-1",
    "data.shards=/nowhere",
    "data.shards=3",
    "data.mixture={nobody: 1}",
    "data.mixture={readme: -1}",
    "data.mixture=readme",
    "data.stages=[{from_step: 1}]",
    "data.stages.5.from_step=1",
    "evaluate.max_windows=0",
    "checkpoint.keep_last=0",
    "train.precision=float8",
    "train.seq_length=10000000",
    "train.global_batch_size=7",
]


@pytest.fixture
def paths(tmp_path: Path, text_shards: Path) -> dict[str, str]:
    folder, file = tmp_path / "folder", tmp_path / "file.txt"
    folder.mkdir()
    file.write_text("to be or not to be\n")
    config = write_config(tmp_path, text_shards, model=LLAMA)
    return {"folder": str(folder), "file": str(file), "nowhere": str(tmp_path / "nowhere"), "config": str(config)}


def assert_one_message(errors: str) -> None:
    lines = errors.splitlines()
    assert lines, "no message"
    messages = [line for line in lines if line.startswith("error: ")]
    assert len(messages) == 1 or "Usage: lehr" in errors, errors
    assert len(lines) < 20, errors
    for leaked in ("Traceback", "pydantic", "https://errors", "OmegaConf", "0x7"):
        assert leaked not in errors, errors


@pytest.mark.parametrize("command", OF_CONFIGS)
@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_a_file_that_is_no_config(kind: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(NO_CONFIGS[kind])
    errors = refused(*command.split(), path)
    assert_one_message(errors)
    assert "config.yaml" in errors


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_argument(line: str, paths: dict[str, str]) -> None:
    assert_one_message(refused(*line.format(**paths).split()))
    assert not (Path(paths["folder"]) / "out").exists()


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_that_is_wrong(override: str, paths: dict[str, str]) -> None:
    errors = refused("train", paths["config"], override)
    assert_one_message(errors)
    key, _, _ = override.partition("=")
    assert any(part in errors for part in key.split(".")), errors
    assert not (Path(paths["config"]).parent / "runs").exists()


def test_a_run_folder_whose_config_is_broken(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {name")
    for command in (["eval", tmp_path], ["generate", tmp_path, "x"], ["export", tmp_path, tmp_path / "out"]):
        assert_one_message(refused(*command))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', "null"])
def test_a_dataset_json_that_is_broken(content: str, paths: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "shards/readme"
    source.mkdir(parents=True)
    (source / "dataset.json").write_text(content)
    for command in (
        ["train", paths["config"], f"data.shards={tmp_path / 'shards'}"],
        ["data", "inspect", source.parent],
    ):
        errors = refused(*command)
        assert_one_message(errors)
        assert "dataset.json" in errors


def test_a_folder_that_cannot_be_made(paths: dict[str, str]) -> None:
    """The run folder would be below a file."""
    errors = refused("train", paths["config"], f"run.folder={paths['file']}/runs")
    assert_one_message(errors)
    assert f"{paths['file']} is a file" in errors
