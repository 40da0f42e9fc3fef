"""A sweep as an array, and a chain of a build, a run and an export, on a real Slurm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from small_runs import make_shards, steps_taken, wait_until, write_config

LEHR = Path(sys.executable).with_name("lehr")


def submitted(cluster: Cluster, *words: str | Path) -> str:
    return cluster.run(LEHR, "slurm", *words, "--quiet", timeout=180).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_is_an_array_of_which_each_task_goes_on_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    """One task is stopped and comes back; the other, on the same node, does not notice.

    No variable of the user's shell is in the jobs.
    """
    config = write_config(tmp_path, make_shards(tmp_path), train={"steps": 300}, evaluate={"every_steps": 300})
    site = tmp_path / "site.yaml"
    site.write_text("ranks_per_node: 2\nsbatch: {nodelist: n1}\n")
    grid = ("--grid", "optim.lr=1e-3,2e-3", "--sbatch", "export=NONE")
    array = submitted(cluster, "submit", config, *grid, "--site", site)
    runs = sorted((tmp_path / "runs" / "try-sweep").glob("*/slurm/job.json"))
    assert [json.loads(path.read_text())["job"] for path in runs] == [f"{array}_0", f"{array}_1"]
    first = runs[0].parents[1]
    log = first / "logs" / f"job-{array}_0-attempt-1" / "rank-00000.log"
    wait_until(lambda: log.exists() and "  loss " in log.read_text(errors="replace"), seconds=300)
    cluster.run("scancel", "--signal=USR1", f"{array}_0")
    for number, path in enumerate(runs):
        cluster.wait_for_job(f"{array}_{number}", "COMPLETED", timeout=400)
        assert steps_taken(path.parents[1]) == 300
    restarts = [cluster.job(f"{array}_{number}")["Restarts"] for number in (0, 1)]
    assert restarts == ["1", "0"]
    one = submitted(cluster, "submit", config, "run.name=one", "--grid", "optim.lr=1e-3", "--sbatch", "begin=now+1hour")
    (record,) = (tmp_path / "runs" / "one-sweep").glob("*/slurm/job.json")
    assert json.loads(record.read_text())["job"] == f"{one}_0"  # an array of one task is an array too
    cancelled = cluster.run(LEHR, "slurm", "cancel", record.parents[1], timeout=180).stdout
    assert f"job {one}_0 is cancelled" in cancelled
    wait_until(lambda: not cluster.run("squeue", "-h").stdout.strip(), seconds=300)
    table = cluster.run(LEHR, "sweep", config, "--grid", "optim.lr=1e-3,2e-3", timeout=400).stdout
    assert "optim.lr" in table
    assert "best" in table


@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_chain_builds_trains_and_exports(cluster: Cluster, tmp_path: Path) -> None:
    """The build submits arrays of its own to the site's partition. Each link waits for the one before."""
    text = tmp_path / "text.jsonl"
    words = [f"word{number}" for number in range(40)]
    lines = [" ".join(words[(n * 7 + k * k) % len(words)] for k in range(60)) for n in range(400)]
    documents = [{"text": f"{n} {line}", "id": str(n)} for n, line in enumerate(lines)]
    text.write_text("".join(json.dumps(document) + "\n" for document in documents))
    data = {
        "shards": str(tmp_path / "built"),
        "executor": "slurm",
        "slurm": {"poll_seconds": 1, "mem_per_cpu_gb": 1},
        "tokenizer": {"vocab_size": 300},
        "held_out_fraction": 0.1,
        "sources": {"text": {"name": "jsonl", "paths": [str(text)]}},
    }
    config = write_config(tmp_path, tmp_path / "built", data=data)
    site = tmp_path / "site.yaml"
    site.write_text("partition: main\n")
    folder = ("--folder", tmp_path / "jobs")
    build = submitted(cluster, "run", "data", "build", config, "--site", site, *folder)
    run = tmp_path / "runs" / "try"
    train = submitted(cluster, "submit", config, "--site", site, "--after", build)
    export = submitted(cluster, "run", "export", run, tmp_path / "exported", "--after", train, *folder)
    cluster.wait_for_job(export, "COMPLETED", timeout=600)
    assert cluster.job(train)["JobState"] == "COMPLETED"
    assert (tmp_path / "exported" / "config.json").exists()
