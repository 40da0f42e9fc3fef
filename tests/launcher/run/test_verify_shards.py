"""The hashing of a run's shards, whose result is recorded beside them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from processes import lehr


@pytest.mark.slow
def test_a_run_records_verified_shards_and_a_resume_notices_changes(config: Path, shards: Path) -> None:
    files = [path for path in shards.rglob("*.ds*") if path.suffix != ".metadata"]
    for path in files:
        os.utime(path, (time.time() - 60, time.time() - 60))
    first = lehr("train", config, "train.steps=2")
    assert first.returncode == 0, first.stderr
    record = shards / "verified_shards.json"
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
