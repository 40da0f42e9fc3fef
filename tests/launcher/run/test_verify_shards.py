"""Who hashes the shards of a run, and that the others hear of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import lehr, run_ranks

from launcher.processes.environment import Ranks
from launcher.run.config import RunConfig
from launcher.run.verify_shards import verify_on_rank_0
from settings import UserError, compose


def flip(path: Path) -> bytes:
    """Alters a bit; returns what was there."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def verdict(config: str, late_seconds: float) -> str:
    """What a rank of two is told; rank 0 comes late."""
    rank = int(os.environ["RANK"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]))  # type: ignore[attr-defined]
    if rank == 0:
        time.sleep(late_seconds)
    try:
        verify_on_rank_0(compose(RunConfig, Path(config)), Ranks(rank, rank, 2, 2, 0, "127.0.0.1", 0, "srun"), store)
    except UserError as error:
        return str(error)
    return "verified"


def test_all_ranks_wait_for_rank_0_and_hear_what_it_found(config: Path, shards: Path) -> None:
    assert run_ranks(2, verdict, str(config), 0.5, join=False) == ["verified", "verified"]
    (file,) = (shards / "beta/train").glob("*.ds")
    kept = flip(file)
    try:
        found = run_ranks(2, verdict, str(config), 0.5, join=False)
    finally:
        file.write_bytes(kept)
    assert found[0] == found[1]
    assert f"{file} was altered" in found[0]


@pytest.mark.slow
def test_a_run_remembers_and_a_resume_notices_what_changed(config: Path, shards: Path) -> None:
    files = [path for path in shards.rglob("*.ds*") if path.suffix != ".metadata"]
    for path in files:
        os.utime(path, (time.time() - 60, time.time() - 60))
    first = lehr("train", config, "train.steps=2")
    assert first.returncode == 0, first.stderr
    noted = config.parent / "runs/try/verified_shards.json"
    assert set(json.loads(noted.read_text())["files"]) == set(map(str, files))
    info = shards / "beta/dataset.json"
    kept = info.read_text()
    plain = json.loads(kept)
    plain["splits"]["train"]["files"][0]["sha256"] = "0" * 64  # as another build would have left it
    info.write_text(json.dumps(plain))
    try:
        again = lehr("train", config, "train.steps=4")
    finally:
        info.write_text(kept)
    assert again.returncode == 2, again.stderr
    assert 'source "beta": SHA-256' in again.stderr
