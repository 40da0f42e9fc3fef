"""The place of a process that srun started, from Slurm's variables."""

from __future__ import annotations

import pytest
from launch_variables import SRUN

from launcher.processes.environment import available_cores, job_end_time, read_rank_info, slurm_job
from launcher.processes.rank_info import SINGLE_PROCESS
from launcher.processes.slurm import cores_of_task, first_host
from settings import UserError


def test_sruns_variables() -> None:
    rank_info = read_rank_info(SRUN)
    assert (
        rank_info.rank,
        rank_info.local_rank,
        rank_info.world_size,
        rank_info.local_world_size,
        rank_info.node_rank,
    ) == (5, 1, 8, 4, 1)
    assert rank_info.master_addr == "localhost"
    assert rank_info.launcher == "srun"
    assert 1024 < rank_info.master_port < 32768  # no outgoing connection takes a port from there


def test_the_port_is_the_jobs_own_and_all_its_ranks_agree() -> None:
    port = read_rank_info(SRUN).master_port
    assert read_rank_info({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).master_port == port
    for other in ({"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}):
        assert read_rank_info({**SRUN, **other}).master_port != port


def test_the_user_may_set_the_address_of_srun_ranks() -> None:
    rank_info = read_rank_info({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (rank_info.master_addr, rank_info.master_port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},  # a step of one task: lehr starts its own ranks in it
        {"SLURM_STEP_ID": str(0xFFFFFFFB)},  # the batch script
        {"SLURM_STEP_ID": str(0xFFFFFFFA)},  # an interactive shell
    ],
)
def test_slurm_without_ranks_of_its_own_is_a_process_on_its_own(change: dict[str, str]) -> None:
    assert read_rank_info({**SRUN, **change}) == SINGLE_PROCESS


def test_a_batch_script_without_step_variables_is_a_process_on_its_own() -> None:
    assert read_rank_info({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == SINGLE_PROCESS


@pytest.mark.parametrize(
    ("tasks", "node", "expected"), [("4(x2)", 1, 4), ("2(x3),1", 3, 1), ("3,2", 1, 2), ("8", 0, 8)]
)
def test_tasks_of_each_node(tasks: str, node: int, expected: int) -> None:
    rank_info = read_rank_info(
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"}
    )
    assert rank_info.local_world_size == expected


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


def test_the_end_of_a_slurm_job() -> None:
    assert job_end_time({"SLURM_JOB_END_TIME": "1764000000"}) == 1764000000.0
    assert job_end_time({}) is None
    assert job_end_time({"SLURM_JOB_END_TIME": ""}) is None
    for value in ("soon", "0", "-1"):
        with pytest.raises(UserError, match=f'SLURM_JOB_END_TIME = "{value}" must be a whole number of at least 1'):
            job_end_time({"SLURM_JOB_END_TIME": value})


def test_the_job_of_a_process() -> None:
    job = slurm_job({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "n07"})
    assert job is not None
    assert (str(job), job.folder_name, job.node) == ("job 12 attempt 3", "job-12-attempt-3", "n07")
    assert slurm_job({}) is None


def test_cores_are_those_that_slurm_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a node that several jobs share, the kernel may allow all cores to each of them."""
    assert cores_of_task({**SRUN, "SLURM_CPUS_PER_TASK": "3"}) == 3
    assert cores_of_task(SRUN) is None
    assert cores_of_task({"SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_ID": "1"}) is None  # of a batch script
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert available_cores() == 8
    monkeypatch.delenv("SLURM_JOB_ID")
    assert available_cores() == 64


def test_a_port_that_is_taken_gives_way_to_the_next_but_not_one_that_the_user_has_set() -> None:
    ports = read_rank_info(SRUN).more_ports
    assert len(ports) > 3
    assert read_rank_info({**SRUN, "MASTER_PORT": "4000"}).more_ports == ()
