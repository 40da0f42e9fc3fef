"""What `lehr slurm submit` checks before a job is submitted, on a machine without Slurm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import lehr
from small_runs import make_shards, write_config

REPOSITORY = Path(__file__).parents[3]


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
    assert "--nodes 4-2: the fewest nodes come first" in lehr(*submit, "--nodes", "4-2").stderr
    done = lehr(*submit, "--time", "5:30")
    assert done.returncode == 2
    assert "a time limit of 5:30 leaves no time to work" in done.stderr


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


def test_a_job_that_sbatch_refuses_leaves_the_run_folder_as_it_was(config: Path) -> None:
    """The sbatch of this test reads the batch file and refuses it, as a cluster without the partition would."""
    path = config.parent / "bin" / "sbatch"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\n/bin/cat > "$0.read"\necho "invalid partition" >&2\nexit 1\n')
    path.chmod(0o755)
    done = lehr("slurm", "submit", config, env={"PATH": str(path.parent)})
    assert done.returncode == 2
    assert "sbatch refuses the job: invalid partition" in done.stderr
    assert path.with_name("sbatch.read").read_text().startswith("#!/bin/bash\n")
    assert not (config.parent / "runs").exists()


def test_the_first_command_of_the_documentation_works_with_its_site_file(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "slurm.md").read_text()
    command, block = (
        re.search(r"^    lehr (slurm submit .*)$", text, re.M),
        re.search(r"```\n(partition:.*?)```", text, re.S),
    )
    assert command is not None
    assert block is not None
    (tmp_path / "site.yaml").write_text(block[1])
    words = command[1].replace("site.yaml", str(tmp_path / "site.yaml")).split()
    # The shards need not be there: the job waits for the one that builds them.
    own = ("--dry-run", "--after", "1", f"data.shards={tmp_path / 'shards'}", f"run.folder={tmp_path / 'runs'}")
    done = lehr(*words, *own, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
