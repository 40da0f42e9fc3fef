"""Which rank a process is: from torchrun's variables, from srun's, from lehr's own; and real torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.processes.environment import (
    SINGLE,
    Parent,
    Ranks,
    become_rank,
    cores,
    first_host,
    job_end,
    one_thread,
    read_ranks,
)
from settings import UserError

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "none",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "localhost,n[02-07]",
}


def test_alone() -> None:
    assert read_ranks({}) == SINGLE
    assert (SINGLE.rank, SINGLE.world_size, SINGLE.source) == (0, 1, "single")


def test_torchruns_variables() -> None:
    assert read_ranks(TORCHRUN) == Ranks(5, 1, 8, 4, 1, "node-a", 29400, "torchrun")


def test_torchrun_under_srun_is_torchrun() -> None:
    ranks = read_ranks({**SRUN, **TORCHRUN})
    assert ranks.source == "torchrun"
    assert ranks.master_addr == "node-a"


def test_sruns_variables() -> None:
    ranks = read_ranks(SRUN)
    assert (ranks.rank, ranks.local_rank, ranks.world_size, ranks.local_world_size, ranks.node) == (5, 1, 8, 4, 1)
    assert ranks.master_addr == "localhost"
    assert ranks.source == "srun"
    assert 1024 < ranks.master_port < 32768  # no outgoing connection takes a port from there


def test_the_port_is_the_jobs_own_and_all_its_ranks_agree() -> None:
    port = read_ranks(SRUN).master_port
    assert read_ranks({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).master_port == port
    for other in ({"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}):
        assert read_ranks({**SRUN, **other}).master_port != port


def test_the_user_may_say_where_srun_ranks_meet() -> None:
    ranks = read_ranks({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (ranks.master_addr, ranks.master_port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},  # a step of one task: lehr starts its own ranks in it
        {"SLURM_STEP_ID": str(0xFFFFFFFB)},  # the batch script
        {"SLURM_STEP_ID": str(0xFFFFFFFA)},  # an interactive shell
    ],
)
def test_slurm_without_ranks_of_its_own_is_alone(change: dict[str, str]) -> None:
    assert read_ranks({**SRUN, **change}) == SINGLE


def test_a_batch_script_without_step_variables_is_alone() -> None:
    assert read_ranks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == SINGLE


@pytest.mark.parametrize(
    ("tasks", "node", "expected"), [("4(x2)", 1, 4), ("2(x3),1", 3, 1), ("3,2", 1, 2), ("8", 0, 8)]
)
def test_tasks_of_each_node(tasks: str, node: int, expected: int) -> None:
    ranks = read_ranks({**SRUN, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"})
    assert ranks.local_world_size == expected


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("n1", "n1"),
        ("n[1-4,7]", "n1"),
        ("n[01-03,7],gpu2", "n01"),
        ("gpu2,n[1-4]", "gpu2"),
        ("rack[1-2]n[3-4]", "rack1n3"),
        ("gpu-a[007]-ib,x", "gpu-a007-ib"),
        ("host-1.example,b", "host-1.example"),
    ],
)
def test_the_first_host_of_a_node_list(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


@pytest.mark.parametrize(
    ("environ", "said"),
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
def test_contradictions_are_told(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_ranks(environ)
    assert said in str(caught.value)


@pytest.fixture
def environment_is_put_back() -> Iterator[None]:
    kept = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.mark.usefixtures("environment_is_put_back")
def test_a_child_reads_what_its_parent_wrote() -> None:
    os.environ.update(SRUN)  # a launch within a Slurm job is lehr's own all the same
    for store_fd in (8, None):
        place = Ranks(2, 2, 4, 4, 0, "127.0.0.1", 1234, "own", Parent(pid=77, report_fd=7, store_fd=store_fd))
        os.environ.pop("LEHR_STORE_FD", None)
        become_rank(place)
        assert read_ranks() == place


@pytest.mark.usefixtures("environment_is_put_back")
@pytest.mark.parametrize("told", [None, "3"])
def test_one_thread_leaves_what_was_told(told: str | None) -> None:
    os.environ.pop("OMP_NUM_THREADS", None)
    if told is not None:
        os.environ["OMP_NUM_THREADS"] = told
    with one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == told


def run_python(code: str, environ: dict[str, str]) -> str:
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_rank_takes_its_share_of_the_cores_unless_told() -> None:
    code = (
        "from launcher.processes.environment import Ranks, prepare_process\n"
        "prepare_process(Ranks(0, 0, 1, 1, 0, '', 0, 'torchrun'))\n"
        "import os, torch; print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads(), torch.cuda.is_available(), "
        "os.environ.get('DS_ACCELERATOR'))"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "DS_ACCELERATOR")}
    told, threads, cuda, accelerator = run_python(code, environ).split()
    assert (int(told), int(threads)) == (cores(), cores())
    assert (accelerator == "cpu") == (cuda == "False")
    told, threads, *_ = run_python(code, {**environ, "OMP_NUM_THREADS": "1"}).split()
    assert (told, threads) == ("1", "1")
    shared = code.replace("0, 1, 1, 0", "0, 99, 99, 0")
    assert run_python(shared, environ).split()[:2] == ["1", "1"]


def test_the_end_of_a_slurm_job() -> None:
    assert job_end({"SLURM_JOB_END_TIME": "1764000000"}) == 1764000000.0
    assert job_end({}) is None
    assert job_end({"SLURM_JOB_END_TIME": ""}) is None
    with pytest.raises(UserError, match="SLURM_JOB_END_TIME = 'soon' must be a whole number"):
        job_end({"SLURM_JOB_END_TIME": "soon"})


@pytest.mark.slow
def test_ranks_of_torchrun_meet(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from launcher.processes.environment import read_ranks\n"
        "from launcher.processes.rendezvous import open_store\n"
        "import torch, torch.distributed as dist\n"
        "ranks = read_ranks()\n"
        "store = open_store(ranks, timeout_seconds=30)\n"
        "dist.init_process_group('gloo', rank=ranks.rank, world_size=ranks.world_size, store=store)\n"
        "total = torch.tensor(1 + ranks.rank)\n"
        "dist.all_reduce(total)\n"
        "said = f'{ranks.source} {ranks.local_world_size} {total}'\n"
        f"Path({str(tmp_path)!r}, str(ranks.rank)).write_text(said)\n"
        "dist.barrier()\n"  # rank 0 holds the store: it goes last
        "dist.destroy_process_group()\n"  # gloo's threads may not outlive the interpreter
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(program)], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["torchrun 2 3"] * 2
