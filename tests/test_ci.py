""".ci/run on machines that lack one tool or another. Each machine is a PATH of stand-ins for the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "run"
TOOLS = ("make", "git", "g++", "python3.11", "slurmctld", "slurmd", "sbatch", "munged", "ip")
ALL_OF_PYTHON = ["python3.11", "python3.11-venv", "python3.11-dev"]
SLURM = ["slurmctld", "slurmd", "slurm-client", "munge", "iproute2"]


def run(
    folder: Path,
    *,
    tools: tuple[str, ...],
    ensurepip: bool = True,
    headers: bool = True,
    script: Path = SCRIPT,
    **environment: str,
) -> tuple[list[str], str]:
    """(packages that are installed, the command line of make) on a machine with these tools.

    LOSS_CURVES, as make finds it in its environment, is left in the file `curves` of the folder.
    """
    path, shelf, include, log = (folder / name for name in ("bin", "shelf", "include", "log"))
    for made in (path, shelf, include):
        made.mkdir()
    bash = shutil.which("bash")
    assert bash is not None
    for name in ("dirname", "cp"):
        (path / name).symlink_to(str(shutil.which(name)))
    stand_ins = {
        "make": f'echo "make $*" >> {log}; echo -n "$LOSS_CURVES" > {folder}/curves',
        "git": "true",
        "g++": "true",
        "python3.11": f'case "$*" in *ensurepip*) {str(ensurepip).lower()} ;; *include*) echo {include} ;; esac',
        **dict.fromkeys(TOOLS[4:], "true"),
        "apt-get": f'echo "apt-get $*" >> {log}; cp {shelf}/* {path}',
    }
    if headers:
        (include / "Python.h").touch()
    for name, code in stand_ins.items():
        (shelf / name).write_text(f"#!{bash}\n{code}\n")
        (shelf / name).chmod(0o755)
        if name in (*tools, "apt-get"):
            shutil.copy(shelf / name, path)
    done = subprocess.run(
        [bash, script], env={"PATH": str(path), **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *installs, made_at_last = log.read_text().splitlines()
    assert installs in ([], ["apt-get update", *installs[1:]])
    options = "apt-get install -y --no-install-recommends "
    return [package for line in installs[1:] for package in line.removeprefix(options).split()], made_at_last


def without(tool: str) -> tuple[str, ...]:
    return tuple(name for name in TOOLS if name != tool)


def test_its_syntax() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    assert os.access(SCRIPT, os.X_OK)


def test_a_machine_that_has_all_installs_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, tools=TOOLS) == ([], "make check")


@pytest.mark.parametrize("tool", TOOLS[:3])
def test_a_tool_that_is_missing(tmp_path: Path, tool: str) -> None:
    assert run(tmp_path, tools=without(tool)) == ([tool], "make check")


def test_a_part_of_slurm_that_is_missing(tmp_path: Path) -> None:
    assert run(tmp_path, tools=without("sbatch")) == (SLURM, "make check")


def test_a_machine_that_cannot_have_slurm_makes_all_the_same(tmp_path: Path) -> None:
    fails = ' case "$*" in *slurm*) echo no network >&2; return 100 ;; esac; DEBIAN_FRONTEND'
    text = SCRIPT.read_text()
    assert text.count("{ DEBIAN_FRONTEND") == 1
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    script = tmp_path / "checkout" / ".ci" / "run"
    script.write_text(text.replace(" DEBIAN_FRONTEND", fails))
    assert run(tmp_path, tools=without("slurmd"), script=script) == ([], "make check")


def test_python_in_parts(tmp_path: Path) -> None:
    for name, lacking, packages in (
        ("venv", {"ensurepip": False}, ["python3.11-venv"]),
        ("dev", {"headers": False}, ["python3.11-dev"]),
        ("both", {"ensurepip": False, "headers": False}, ["python3.11-venv", "python3.11-dev"]),
    ):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, tools=TOOLS, **lacking) == (packages, "make check")


def test_a_bare_machine(tmp_path: Path) -> None:
    assert run(tmp_path, tools=()) == ([*TOOLS[:3], *ALL_OF_PYTHON, *SLURM], "make check")


def test_loss_curves_beside_the_checkout_are_used(tmp_path: Path) -> None:
    script = tmp_path / "checkout" / ".ci" / "run"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)

    def curves(name: str, **environment: str) -> str:
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, tools=TOOLS, script=script, **environment) == ([], "make check")
        return (tmp_path / name / "curves").read_text()

    assert curves("none") == ""
    folder = tmp_path / "some data" / "loss_curves"
    folder.mkdir(parents=True)
    assert curves("another_folder_of_that_name") == ""
    (folder / "25M").mkdir()
    (folder / "25M" / "cosine_24000.csv").touch()
    assert curves("found") == "../some data/loss_curves"
    assert curves("given", LOSS_CURVES="/elsewhere") == "/elsewhere"
