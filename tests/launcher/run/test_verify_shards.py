"""The hashing of a run's shards by rank 0, whose result the other ranks receive."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import lehr, run_ranks

from launcher.processes.rank_info import RankInfo
from launcher.run.config import RunConfig
from launcher.run.verify_shards import verify_on_rank_0
from settings import UserError, compose


def flip(path: Path) -> bytes:
    """Flips a bit; returns the content before."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def verify_as_rank(config: str, delay_seconds: float) -> str:
    """Returns the result that one of two ranks receives; rank 0 starts with a delay."""
    rank = int(os.environ["RANK"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]))  # type: ignore[attr-defined]
    if rank == 0:
        time.sleep(delay_seconds)
    try:
        verify_on_rank_0(compose(RunConfig, Path(config)), RankInfo(rank, rank, 2, 2, 0, "127.0.0.1", 0, "srun"), store)
    except UserError as error:
        return str(error)
    return "verified"


def test_all_ranks_wait_for_rank_0_and_receive_its_result(config: Path, shards: Path) -> None:
    assert run_ranks(2, verify_as_rank, str(config), 0.5, join=False) == ["verified", "verified"]
    (file,) = (shards / "beta/train").glob("*.ds")
    before = flip(file)
    try:
        found = run_ranks(2, verify_as_rank, str(config), 0.5, join=False)
    finally:
        file.write_bytes(before)
    assert found[0] == found[1]
    assert f"{file} was altered" in found[0]


@pytest.mark.slow
def test_a_run_records_verified_shards_and_a_resume_notices_changes(config: Path, shards: Path) -> None:
    files = [path for path in shards.rglob("*.ds*") if path.suffix != ".metadata"]
    for path in files:
        os.utime(path, (time.time() - 60, time.time() - 60))
    first = lehr("train", config, "train.steps=2")
    assert first.returncode == 0, first.stderr
    record = config.parent / "runs/try/verified_shards.json"
    assert set(json.loads(record.read_text())["files"]) == set(map(str, files))
    info = shards / "beta/dataset.json"
    before = info.read_text()
    plain = json.loads(before)
    plain["splits"]["train"]["files"][0]["sha256"] = "0" * 64  # as another build would have left it
    info.write_text(json.dumps(plain))
    try:
        again = lehr("train", config, "train.steps=4")
    finally:
        info.write_text(before)
    assert again.returncode == 2, again.stderr
    assert 'source "beta": SHA-256' in again.stderr
