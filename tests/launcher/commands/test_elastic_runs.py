"""A run continues from a checkpoint with the same losses, whatever changed in the layout, the hosts or the speed.

The rest of the steps, evaluations and schedule must be the unbroken run's after a checkpoint in mid-run, to the bit in
the same layout, its batches identical in every one.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from small_runs import STEPS, make_shards, trajectory, write_config

CHANGES: dict[str, list[str]] = {
    "nothing": [],
    "the number of workers": ["data.workers=3", "data.prefetch_batches=1"],
    "the micro-batch": ["train.micro_batch_size=8"],
    "recomputation": ["train.recompute=full"],
    "tensor ranks": ["parallel.tensor=2", "parallel.sequence=true"],
    "stages": ["parallel.pipeline=2"],
    "data ranks": ["parallel.data=2", "parallel.zero=0"],
    "data ranks, ZeRO 3": ["parallel.data=2", "parallel.zero=3"],
}
SAME_ARITHMETIC = ("nothing", "the number of workers")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the config and a complete run; its checkpoints are of steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("complete")
    done = lehr("train", write_config(folder, make_shards(folder)), "run.name=complete")
    assert done.returncode == 0, done.stderr
    return folder


def killed_copy(complete: Path, name: str) -> Path:
    """Copies the run as if it had been killed some steps after its first checkpoint."""
    run = complete / "runs" / name
    shutil.copytree(complete / "runs" / "complete", run)
    for step in (8, 12):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    (run / "checkpoints" / "latest").write_text("step-00000004\n")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:8]) + '{"step": 8, "lo')
    return run


def assert_same(actual: list[dict[str, Any]], wanted: list[dict[str, Any]], *, rel: float) -> None:
    assert [line["step"] for line in actual] == list(range(1, STEPS + 1))
    assert [line["batch_hash"] for line in actual] == [line["batch_hash"] for line in wanted]
    for one, other in zip(actual, wanted, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            bound = 10 * rel if key == "grad_norm" else rel
            assert one[key] == (value if rel == 0 or isinstance(value, str) else pytest.approx(value, rel=bound)), key


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_continuing_with_a_change_of(change: str, complete: Path) -> None:
    name = change.replace(" ", "-").replace(",", "")
    run = killed_copy(complete, name)
    done = lehr("train", complete / "config.yaml", f"run.name={name}", *CHANGES[change])
    assert done.returncode == 0, done.stderr
    rel = 0.0 if change in SAME_ARITHMETIC else 1e-5
    assert_same(trajectory(run), trajectory(complete / "runs" / "complete"), rel=rel)
    for step in (8, 12):
        ours, theirs = (
            (complete / "runs" / which / "checkpoints" / f"step-{step:08d}" / "state.json").read_text()
            for which in (name, "complete")
        )
        assert rel or ours == theirs
    if rel == 0:  # the weights and the optimizer's state too
        for file in (complete / "runs" / "complete" / "checkpoints").glob("step-*/*.safetensors"):
            other = run / file.relative_to(complete / "runs" / "complete")
            assert other.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_continuing_on_other_hosts(complete: Path) -> None:
    """torchrun is given two nodes of one rank each."""
    run = killed_copy(complete, "hosts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    nodes = [
        subprocess.Popen(
            [
                *command,
                "--node-rank",
                str(node),
                "-m",
                "launcher",
                "train",
                str(complete / "config.yaml"),
                "run.name=hosts",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    try:
        for node in nodes:
            _, errors = node.communicate(timeout=150)
            assert node.returncode == 0, errors
    finally:
        for node in nodes:
            node.kill()
    assert_same(trajectory(run), trajectory(complete / "runs" / "complete"), rel=1e-5)
