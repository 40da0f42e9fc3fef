"""What `lehr slurm submit` checks before a job is submitted, on a machine without Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import lehr
from small_runs import make_shards, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, make_shards(tmp_path))


def test_the_config_is_checked_for_the_machine_of_the_cluster(config: Path) -> None:
    """This machine has no GPU and would refuse the settings of the first run."""
    site = config.parent / "site.yaml"
    submit = ("slurm", "submit", config, "--dry-run", "--site", site)
    site.write_text("gpus_per_node: 2\nranks_per_node: 2\n")
    done = lehr(*submit, "--nodes", "2", "train.device=cuda", "train.precision=bfloat16")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2" in done.stdout
    assert not (config.parent / "runs").exists()
    site.write_text("ranks_per_node: 2\n")
    done = lehr(*submit, "train.device=cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert "train.device = cuda, and the site file says gpus_per_node = 0" in done.stderr
    done = lehr(*submit, "--nodes", "1-3")
    assert done.returncode == 2
    assert "on 3 nodes of 2 ranks: this layout cannot be" in done.stderr
    done = lehr(*submit, "--nodes", "some")
    assert "--nodes some: it must be a number, or a range such as 2-4" in done.stderr
    done = lehr(*submit, "--time", "5:30")
    assert done.returncode == 2
    assert "a time limit of 5:30 leaves no time to train" in done.stderr


def test_a_run_that_waits_for_its_shards_is_checked_as_far_as_can_be(config: Path) -> None:
    submit = ("slurm", "submit", config, "--dry-run", "data.shards=later")
    assert lehr(*submit).returncode == 2
    done = lehr(*submit, "--after", "12")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --dependency=afterok:12" in done.stdout
    assert "this layout cannot be" in lehr(*submit, "--after", "12", "parallel.tensor=2").stderr


def test_without_slurm_the_message_says_so(config: Path) -> None:
    done = lehr("slurm", "submit", config, env={"PATH": "/nowhere"})
    assert done.returncode == 2
    assert "there is no sbatch here: call `lehr slurm` on a node of the cluster" in done.stderr
    done = lehr("slurm", "status", config.parent / "runs" / "other")
    assert "has no Slurm job: `lehr slurm submit` starts one" in done.stderr
    done = lehr("slurm", "run", "train", config)
    assert "lehr train: `lehr slurm submit` does that" in done.stderr
