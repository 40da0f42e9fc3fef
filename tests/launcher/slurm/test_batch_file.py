"""The batch file: what the site and the command say is in it, and the shell takes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher.slurm.batch_file import RUN_TEMPLATE, described, fill_in, options_of
from launcher.slurm.launch import LAUNCHES
from launcher.slurm.site import SiteConfig, read_site
from settings import UserError

SITE = """
partition: gpu
account: mine
gres: gpu:h100:8
ranks_per_node: 8
gpus_per_node: 8
cpus_per_task: 12
modules: [cuda/12.8]
setup: [source venv/bin/activate]
environment: {NCCL_DEBUG: "WARN now"}
interface: ib0
container: ["--container-image=/images/my image.sqsh"]
sbatch: {exclusive: "", constraint: "a&b"}
"""


def rendered(folder: Path, options: dict[str, str], more: str = "") -> str:
    (folder / "site.yaml").write_text(SITE + more)
    site = read_site(folder / "site.yaml")
    named = options_of(site, name="try", output=Path("runs/try/slurm/%j.out"), nodes="2-4")
    written = described(["lehr", "slurm", "submit", "run.name=two\nlines"])
    launch = LAUNCHES[site.launch]
    return fill_in(RUN_TEMPLATE, site, named | options, launch=launch, run="'/a folder'", lehr="/bin/lehr", **written)


def test_all_settings_are_in_the_file_and_the_command_counts_last(tmp_path: Path) -> None:
    text = rendered(tmp_path, {"time": "01:00:00", "reservation": "mine", "comment": "two words"})
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=mine",
        "#SBATCH --gres=gpu:h100:8",
        "#SBATCH --nodes=2-4",
        "#SBATCH --mincpus=96",
        "#SBATCH --time=01:00:00",
        "#SBATCH --reservation=mine",
        '#SBATCH --comment="two words"',
        "#SBATCH --exclusive",
        "#SBATCH --constraint=a&b",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
        "module load cuda/12.8",
        "source venv/bin/activate",
        "export NCCL_DEBUG='WARN now'",
        "export GLOO_SOCKET_IFNAME=ib0",
        "export NCCL_SOCKET_IFNAME=ib0",
    ):
        assert line in text.splitlines()
    assert text.count("#SBATCH --time=") == 1
    assert "#SBATCH --ntasks-per-node" not in text  # with it, Slurm would take the fewest nodes of the range
    assert "'--container-image=/images/my image.sqsh'" in text
    (tmp_path / "job.sbatch").write_text(text)
    assert subprocess.run(["bash", "-n", tmp_path / "job.sbatch"]).returncode == 0
    assert text.splitlines()[0] == "#!/bin/bash"
    last_option = max(number for number, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert all(not line or line.startswith("#") for line in text.splitlines()[:last_option])  # Slurm reads no further


def test_torchrun_is_one_task_of_a_node_with_the_cores_of_all_its_ranks(tmp_path: Path) -> None:
    by_srun, by_torchrun = rendered(tmp_path, {}), rendered(tmp_path, {}, "launch: torchrun\n")
    assert "--ntasks-per-node=8 --kill-on-bad-exit=0 --wait=40 --cpus-per-task=12 " in by_srun
    assert '"${start[@]}" "$lehr" train "$run/slurm/config.yaml" &' in by_srun
    assert "--ntasks-per-node=1 --kill-on-bad-exit=0 --wait=40 --cpus-per-task=96 " in by_torchrun
    assert '"${start[@]}" "$lehr" slurm torchrun "$run" &' in by_torchrun
    assert "ends with the exit code of its ranks, such as 75" in " ".join(by_torchrun.replace("\n#", " ").split())
    options = [[line for line in text.splitlines() if line.startswith("#SBATCH")] for text in (by_srun, by_torchrun)]
    assert options[0] == options[1]


def test_a_mistake_in_the_site_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("partiton: gpu")
    with pytest.raises(UserError, match=r'partiton.*did you mean "partition"'):
        read_site(tmp_path / "site.yaml")
    (tmp_path / "site.yaml").write_text("sbatch: {signal: USR1@9}")
    with pytest.raises(UserError, match=r"sbatch.*lehr sets --signal of sbatch itself"):
        read_site(tmp_path / "site.yaml")


def test_a_folder_whose_name_has_two_lines_has_no_batch_file() -> None:
    named = options_of(SiteConfig(), name="try", output=Path("runs/a\nb/%j.out"), nodes="1")
    with pytest.raises(UserError, match=r'--output of sbatch = "runs/a\\nb/%j.out": must be one line of text'):
        fill_in(RUN_TEMPLATE, SiteConfig(), named, launch=LAUNCHES["srun"], run="x", lehr="x", **described(["lehr"]))


def test_every_setting_of_a_site_is_described() -> None:
    assert all(field.description for field in SiteConfig.model_fields.values())
