"""Every command that writes, with an output that the file system refuses: one message, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_runs import LLAMA, done, refused, write_random_run

from train.metrics.jsonl import MetricsFile

# No file can be made in /proc, by any user. The other folder is a file.
FORBIDDEN = ("/proc", "file")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, text_shards: Path) -> Path:
    """A folder with a run, its config, its export, a loss curve, a fit, and a config of a build."""
    folder = tmp_path_factory.mktemp("inputs")
    run, _ = write_random_run(folder, text_shards, model=LLAMA)
    metrics = MetricsFile(run.metrics, from_step=0)
    for step in range(1, 9):
        metrics.append({"step": step, "tokens": 100 * step, "loss": 3 + 4 / step, "lr": 1e-3, "grad_norm": 1 / step})
    metrics.close()
    done("export", run.path, folder / "hf")
    step = np.arange(1, 101)
    rows = [f"{n},{1e-3 * (1 - n / 200)},{2 + n**-0.5}" for n in step.tolist()]
    (folder / "curve.csv").write_text("\n".join(["step,lr,loss", *rows]))
    done("law", "fit", folder / "curve.csv", "--law=annealing", "--samples=0", "-o", folder / "fit.json")
    (folder / "text.txt").write_text("Once upon a time.\n" * 100)
    sources = {"tale": {"name": "text", "paths": [str(folder / "text.txt")]}}
    data = {"shards": "shards", "sources": sources, "tokenizer": {"vocab_size": 260}}
    (folder / "data.yaml").write_text(json.dumps({"data": data}))
    return folder


@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize(
    "command",
    [
        "plot {inputs}/runs/try -o {folder}/x.png",
        "export {inputs}/runs/try {folder}/x",
        "import {inputs}/hf {inputs}/config.yaml run.name=new run.folder={folder}/x",
        "train {inputs}/config.yaml run.folder={folder}/x",
        "data build {inputs}/data.yaml data.shards={folder}/x",
        "law fit {inputs}/curve.csv --law=annealing --samples=0 -o {folder}/x.json",
        "law fit {inputs}/curve.csv --law=annealing --samples=0 --plot {folder}/x.png",
        "law predict {inputs}/fit.json schedule=cosine train.steps=50 --plot {folder}/x.png",
        "law schedule {inputs}/fit.json --steps 50 --constraint free_form=false -o {folder}/x",
    ],
)
def test_a_refused_output_is_one_message(command: str, forbidden: str, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / forbidden)  # /proc stays /proc
    message = refused(*command.format(inputs=inputs, folder=folder).split())
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, message
    assert folder in errors[0]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"]


@pytest.mark.slow
def test_a_full_disk_behind_standard_output_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "launcher", "config", "keys"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: the output cannot be written: No space left on device; make room there\n",
    )


@pytest.mark.slow
def test_a_reader_that_has_closed_the_pipe_ends_a_command_silently() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "launcher", "config", "keys", "run"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize(
    "command",
    [
        "plot {inputs}/runs/try -o {inputs}/runs/try/checkpoints/x.png",
        "plot {inputs}/runs/try -o {checkpoint}/x.png",
        "plot {inputs}/runs/try -o {shards}/x.png",
        "plot {inputs}/runs/try -o {source}/train/x.png",
        "export {inputs}/runs/try {checkpoint}/x",
        "law fit {inputs}/curve.csv --law=annealing --samples=0 -o {checkpoint}/x.json",
        "law fit {inputs}/curve.csv --law=annealing --samples=0 --plot {source}/x.png",
        "law schedule {inputs}/fit.json --steps 50 --constraint free_form=false -o {source}",
    ],
)
def test_no_output_goes_among_checkpoints_or_shards(command: str, inputs: Path, text_shards: Path) -> None:
    """A file that does not belong to a checkpoint makes it incomplete."""
    (checkpoint,) = (inputs / "runs" / "try" / "checkpoints").glob("step-*")
    source = next(text_shards.glob("*/dataset.json")).parent
    before = {path for folder in (checkpoint.parent, text_shards) for path in folder.rglob("*")}
    message = refused(*command.format(inputs=inputs, checkpoint=checkpoint, shards=text_shards, source=source).split())
    assert "the checkpoints of a run; give another path" in message or "shards" in message
    assert before == {path for folder in (checkpoint.parent, text_shards) for path in folder.rglob("*")}
