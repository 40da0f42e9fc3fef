"""A ladder whose rungs are trained as an array on a real Slurm, and gathered when it is done."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from small_runs import make_shards, write_config

LEHR = Path(sys.executable).with_name("lehr")
SHAPE = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 32}
TRAIN = {"steps": 160, "seq_length": 32, "micro_batch_size": 4, "global_batch_size": 4}


@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_rungs_are_tasks_of_an_array_and_are_gathered_when_it_is_done(cluster: Cluster, tmp_path: Path) -> None:
    config = write_config(tmp_path, make_shards(tmp_path), model=SHAPE, train=TRAIN)
    ladder, site = tmp_path / "ladder", tmp_path / "site.yaml"
    site.write_text("partition: main\n")
    options = ["--target", "17e3", "--tokens", "40e3", "--sizes", "2", "--spacing", "1.6", "--budget", "2e10"]
    cluster.run(LEHR, "ladder", "plan", config, *options, "-o", ladder, timeout=180)
    said = cluster.run(LEHR, "ladder", "run", ladder, "--slurm", "--site", site, timeout=180).stdout
    found = re.search(r"job (\d+) is submitted for 6 runs", said)
    assert found, said
    assert not (ladder / "runs.jsonl").exists()
    for number in range(6):
        cluster.wait_for_job(f"{found[1]}_{number}", "COMPLETED", timeout=400)
    gathered = cluster.run(LEHR, "ladder", "run", ladder, timeout=180).stdout
    assert "6 of 6 runs are finished" in gathered
    assert " running, " not in gathered  # nothing was trained
    assert len((ladder / "runs.jsonl").read_text().splitlines()) == 6
