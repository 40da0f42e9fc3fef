"""The files that each rank of torchrun opens and looks at: their number does not grow with ranks times files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source
from small_runs import write_config

RANKS, SHARDS, STEPS, ROWS = 4, 40, 2, 8


def named(path: Path) -> str:
    return path.name if path.suffix == ".json" else f"*.{path.name.partition('.')[2]}"


def accesses(config: Path, folder: Path, *overrides: str) -> list[Counter[str]]:
    """Trains on the ranks of a real torchrun, and returns the accesses of each: `open *.ds`, `stat manifest.json`."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command += [str(Path(__file__).with_name("counted_train.py")), str(folder), str(config), *overrides]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    found = []
    for rank in range(RANKS):
        lines = (folder / f"{rank}.txt").read_text().splitlines()
        found.append(Counter(f"{kind} {named(Path(path))}" for kind, path in map(str.split, lines)))
    return found


@pytest.mark.slow
def test_ranks_look_only_at_what_they_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, held_out = ([documents(rng, tokens=400) for _ in range(count)] for count in (SHARDS, 1))
    write_source(tmp_path / "shards", "alpha", train=train, held_out=held_out)
    for path in (tmp_path / "shards").rglob("*"):
        os.utime(path, (path.stat().st_mtime - 60, path.stat().st_mtime - 60))
    config = write_config(
        tmp_path, tmp_path / "shards", data={"shards": str(tmp_path / "shards"), "prefetch_batches": 1}
    )
    first = accesses(config, tmp_path / "first", f"train.steps={STEPS}", "evaluate.every_steps=0")
    files = 2 * (SHARDS + 1)
    assert [one["stat *.ds"] + one["stat *.ds.index"] >= files for one in first] == [True, False, False, False]
    # Each rank hashes its share, and opens the shards of the rows that it has read: a row is in two at most.
    rows = (STEPS + 2) * ROWS // RANKS
    for one in first:
        assert one["open *.ds"] <= files / RANKS + 1
        assert one["map *.ds"] <= 2 * rows < SHARDS
    again = accesses(config, tmp_path / "again", f"train.steps={2 * STEPS}", "evaluate.every_steps=0")
    for one in again[1:]:
        assert one["open *.ds"] == 0
        assert one["stat *.ds"] <= SHARDS // RANKS + 1
        assert one["open dataset.json"] == first[1]["open dataset.json"] <= 6
        assert not one["open manifest.json"] + one["stat manifest.json"]
    assert sum(one["open state.json"] for one in again[1:]) <= 1  # one rank hashes it
