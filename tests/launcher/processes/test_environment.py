"""The place of a process in a run, from the variables of torchrun and of lehr's own launcher; and real torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_variables import SRUN, TORCHRUN

from launcher.processes.environment import (
    available_cores,
    cache_folder,
    export_rank_info,
    one_openmp_thread,
    read_rank_info,
)
from launcher.processes.rank_info import SINGLE_PROCESS, ParentHandles, RankInfo
from settings import UserError


def test_a_process_on_its_own() -> None:
    assert read_rank_info({}) == SINGLE_PROCESS
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.world_size, SINGLE_PROCESS.launcher) == (0, 1, "none")


def test_the_cache_folder() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/scratch/cache"}) == Path("/scratch/cache/lehr")
    for ignored in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert cache_folder(ignored) == Path.home() / ".cache" / "lehr"


def test_torchruns_variables() -> None:
    assert read_rank_info(TORCHRUN) == RankInfo(5, 1, 8, 4, 1, "node-a", 29400, "torchrun")


def test_torchrun_under_srun_is_torchrun() -> None:
    rank_info = read_rank_info({**SRUN, **TORCHRUN})
    assert rank_info.launcher == "torchrun"
    assert rank_info.master_addr == "node-a"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK and MASTER_ADDR and MASTER_PORT are not"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8 is not below the world size 8"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "local rank 4 is not below the 4 ranks of this node"),
        ({**TORCHRUN, "RANK": "five"}, "RANK = 'five' must be a whole number"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "x"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, "names no host"),
        ({**SRUN, "SLURM_STEP_NODELIST": "no-such-host.invalid"}, "does not resolve; set MASTER_ADDR"),
    ],
)
def test_contradictions_are_user_errors(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rank_info(environ)
    assert message in str(caught.value)


@pytest.fixture
def environment_is_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("environment_is_restored")
def test_a_child_reads_what_its_parent_wrote() -> None:
    os.environ.update(SRUN)  # a launch within a Slurm job is lehr's own all the same
    for store_fd in (8, None):
        place = RankInfo(
            2, 2, 4, 4, 0, "127.0.0.1", 1234, "lehr", ParentHandles(pid=77, report_fd=7, store_fd=store_fd)
        )
        os.environ.pop("LEHR_STORE_FD", None)
        export_rank_info(place)
        assert read_rank_info() == place


@pytest.mark.usefixtures("environment_is_restored")
@pytest.mark.parametrize("before", [None, "3"])
def test_one_openmp_thread_restores_the_number_of_threads(before: str | None) -> None:
    os.environ.pop("OMP_NUM_THREADS", None)
    if before is not None:
        os.environ["OMP_NUM_THREADS"] = before
    with one_openmp_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


def run_python(code: str, environ: dict[str, str]) -> str:
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_rank_takes_its_share_of_the_cores_unless_omp_num_threads_is_set() -> None:
    code = (
        "from launcher.processes.environment import prepare_process\n"
        "from launcher.processes.rank_info import RankInfo\n"
        "prepare_process(RankInfo(0, 0, 1, 1, 0, '', 0, 'torchrun'))\n"
        "import os, torch; print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads(), torch.cuda.is_available(), "
        "os.environ.get('DS_ACCELERATOR'))"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "DS_ACCELERATOR")}
    omp_threads, threads, cuda, accelerator = run_python(code, environ).split()
    assert (int(omp_threads), int(threads)) == (available_cores(), available_cores())
    assert (accelerator == "cpu") == (cuda == "False")
    omp_threads, threads, *_ = run_python(code, {**environ, "OMP_NUM_THREADS": "1"}).split()
    assert (omp_threads, threads) == ("1", "1")
    shared = code.replace("0, 1, 1, 0", "0, 99, 99, 0")
    assert run_python(shared, environ).split()[:2] == ["1", "1"]


@pytest.mark.slow
def test_ranks_of_torchrun_meet(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from launcher.processes.environment import read_rank_info\n"
        "from launcher.processes.rendezvous import open_store\n"
        "import torch, torch.distributed as dist\n"
        "rank_info = read_rank_info()\n"
        "store = open_store(rank_info, timeout_seconds=30)\n"
        "dist.init_process_group('gloo', rank=rank_info.rank, world_size=rank_info.world_size, store=store)\n"
        "total = torch.tensor(1 + rank_info.rank)\n"
        "dist.all_reduce(total)\n"
        "line = f'{rank_info.launcher} {rank_info.local_world_size} {total}'\n"
        f"Path({str(tmp_path)!r}, str(rank_info.rank)).write_text(line)\n"
        "dist.barrier()\n"  # rank 0 holds the store: it goes last
        "dist.destroy_process_group()\n"  # gloo's threads may not outlive the interpreter
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(program)], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["torchrun 2 3"] * 2
