"""The place of a process in a run, from the variables of torchrun and of lehr's own launcher."""

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
    check_environment,
    export_rank_info,
    one_openmp_thread,
    read_rank_info,
)
from launcher.processes.rank_info import SINGLE_PROCESS, AddressError, ParentHandles, RankInfo
from settings import UserError


def test_a_process_on_its_own() -> None:
    assert read_rank_info({}) == SINGLE_PROCESS
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.world_size, SINGLE_PROCESS.launcher) == (0, 1, "none")


def test_the_cache_folder() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/scratch/cache"}) == Path("/scratch/cache/lehr")
    for ignored in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert cache_folder(ignored) == Path.home() / ".cache" / "lehr"


def test_torchruns_variables() -> None:
    assert read_rank_info(TORCHRUN) == RankInfo(5, 1, 8, 4, 1, "node-a", 29400, "torchrun", has_agent=True)


def test_torchrun_under_srun_is_torchrun() -> None:
    rank_info = read_rank_info({**SRUN, **TORCHRUN})
    assert rank_info.launcher == "torchrun"
    assert rank_info.master_addr == "node-a"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK and MASTER_ADDR and MASTER_PORT are not"),
        ({**TORCHRUN, "RANK": "8"}, 'RANK = "8" must be a whole number from 0 to 7'),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, 'LOCAL_RANK = "4" must be a whole number from 0 to 3'),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "9"}, 'LOCAL_WORLD_SIZE = "9" must be a whole number from 1 to 8'),
        ({**SRUN, "SLURM_PROCID": "8"}, 'SLURM_PROCID = "8" must be a whole number from 0 to 7'),
        ({**SRUN, "SLURM_LOCALID": "4"}, 'SLURM_LOCALID = "4" must be a whole number from 0 to 3'),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "x"}, "SLURM_STEP_TASKS_PER_NODE"),
    ],
)
def test_contradictions_are_user_errors(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rank_info(environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, "MASTER_ADDR and MASTER_PORT are not"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, 'MASTER_PORT = "99999" must be a whole number from 1 to 65535'),
        ({**SRUN, "MASTER_PORT": "soon"}, 'MASTER_PORT = "soon" must be a whole number from 1 to 65535'),
        ({**TORCHRUN, "MASTER_ADDR": " "}, "MASTER_ADDR is empty: set it to the address of the first node"),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, "names no host"),
        ({**SRUN, "SLURM_STEP_NODELIST": "no-such-host.invalid"}, "does not resolve; set MASTER_ADDR"),
    ],
)
def test_a_wrong_address_is_an_error_that_knows_the_rank(environ: dict[str, str], message: str) -> None:
    with pytest.raises(AddressError, match=message) as caught:
        read_rank_info(environ)
    assert (caught.value.rank, caught.value.local_rank) == (5, 1)


def test_an_agent_of_torchrun_is_the_parent_and_may_serve_the_store() -> None:
    by_hand = {name: value for name, value in TORCHRUN.items() if not name.startswith("TORCHELASTIC")}
    environments = [by_hand] + [{**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": value} for value in ("False", "True")]
    assert [(place.has_agent, place.agent_serves_store) for place in map(read_rank_info, environments)] == [
        (False, False),
        (True, False),
        (True, True),
    ]


NUMBERS = {name: TORCHRUN for name, value in TORCHRUN.items() if value.isdecimal()}
NUMBERS |= {name: SRUN for name, value in SRUN.items() if value.isdecimal() and name != "SLURM_NTASKS"}  # not read
NUMBERS |= {"SLURM_RESTART_COUNT": SRUN, "LEHR_PARENT_PID": TORCHRUN}


@pytest.mark.parametrize("value", ["", " ", "word", "-1", "1.5", "1e3", "0x1", "9" * 30])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_variable_without_a_whole_number_is_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f'^{name} = "{value}" must be a whole number (of at least|from) '):
        read_rank_info({**NUMBERS[name], name: value})


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5", "4096", "99999999999", ",4"])
def test_wrong_openmp_threads_are_refused_before_any_process_starts(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    first = value.partition(",")[0]
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    with pytest.raises(UserError, match=f'^OMP_NUM_THREADS = "{first}" must be a whole number from 1 to 128$'):
        check_environment()


@pytest.mark.parametrize("value", ["", " ", "3", "4,2"])
def test_openmp_threads_may_be_empty_or_a_list(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    check_environment()


@pytest.fixture
def environment_is_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("environment_is_restored")
def test_a_child_reads_what_its_parent_wrote() -> None:
    # A launch within a Slurm job, or by a rank of torchrun, is lehr's own all the same.
    os.environ.update({**SRUN, "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True"})
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
        "os.environ['LOCAL_RANK'], os.environ.get('DS_ACCELERATOR'))"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "DS_ACCELERATOR")}
    omp_threads, threads, cuda, gpu, accelerator = run_python(code, environ).split()
    assert gpu == "0"
    assert (int(omp_threads), int(threads)) == (available_cores(), available_cores())
    assert (accelerator == "cpu") == (cuda == "False")
    assert run_python(code, {**environ, "OMP_NUM_THREADS": ""}).split()[:2] == [omp_threads, threads]
    omp_threads, threads, *_ = run_python(code, {**environ, "OMP_NUM_THREADS": "1"}).split()
    assert (omp_threads, threads) == ("1", "1")
    shared = code.replace("0, 1, 1, 0", "0, 99, 99, 0")
    assert run_python(shared, environ).split()[:2] == ["1", "1"]


@pytest.mark.slow
def test_the_one_thread_of_torchrun_is_not_the_users(tmp_path: Path) -> None:
    """torchrun sets OMP_NUM_THREADS to 1 for two ranks or more, unless the user has set it, maybe to 1 too.

    It runs as a task of srun, whose cores are those of all ranks of the node.
    """
    task = {f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "STEP_ID")}
    task |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_CPUS_PER_TASK": "12"}
    script = tmp_path / "rank.py"
    script.write_text(
        "import launcher.processes.environment as environment\n"
        "environment.available_cores = lambda: 12\n"
        "environment.prepare_process(environment.read_rank_info())\n"
        "import os, torch; print(f'threads={torch.get_num_threads()},{os.environ[\"OMP_NUM_THREADS\"]}', flush=True)\n"
    )
    root = str(Path(__file__).parents[3])
    environ = {**{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}, "PYTHONPATH": root, **task}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    for users, expected in ((None, "6,6"), ("1", "1,1"), ("2", "2,2")):
        env = environ if users is None else {**environ, "OMP_NUM_THREADS": users}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=200)
        assert done.stdout.split() == [f"threads={expected}"] * 2


@pytest.mark.slow
def test_a_gpus_memory_is_allocated_in_expandable_segments_unless_the_user_chooses() -> None:
    code = (
        "from launcher.processes.environment import prepare_imports\n"
        "prepare_imports()\n"
        "import os; print(os.environ.get('PYTORCH_ALLOC_CONF'), os.environ.get('PYTORCH_CUDA_ALLOC_CONF'))\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    assert run_python(code, environ).split() == ["expandable_segments:True", "None"]
    for name, expected in (("PYTORCH_ALLOC_CONF", "x None"), ("PYTORCH_CUDA_ALLOC_CONF", "None x")):
        assert run_python(code, {**environ, name: "x"}).split() == expected.split()


@pytest.mark.parametrize(
    ("local_rank", "visible", "gpu"),
    [(0, 0, 0), (3, 0, 0), (0, 1, 0), (3, 8, 3), (1, 1, 0), (5, 1, 0), (5, 4, 1)],
)
def test_a_rank_takes_a_gpu_that_it_sees(local_rank: int, visible: int, gpu: int) -> None:
    """There is no GPU; all GPUs of the node are visible; only the rank's own is; two ranks share one."""
    assert RankInfo(local_rank, local_rank, 8, 8, 0, "", 0, "srun").gpu(visible) == gpu


@pytest.mark.slow
def test_ranks_of_one_node_meet_over_the_loopback_interface_unless_the_user_names_another() -> None:
    code = (
        "from launcher.processes.environment import prepare_process\n"
        "from launcher.processes.rank_info import RankInfo\n"
        "prepare_process(RankInfo(1, 1, 2, 2, 0, '127.0.0.1', 29500, 'torchrun'))\n"
        "import os; print(os.environ['GLOO_SOCKET_IFNAME'])\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    assert run_python(code, environ).split() == ["lo"]
    assert run_python(code, {**environ, "GLOO_SOCKET_IFNAME": "eth7"}).split() == ["eth7"]


@pytest.mark.slow
def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    code = (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "from launcher.processes.environment import prepare_process\n"
        "from launcher.processes.rank_info import SINGLE_PROCESS\n"
        "prepare_process(SINGLE_PROCESS)\n"
        "print(hard, *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    hard, *limits = run_python(code, dict(os.environ)).split()
    assert limits == [hard, hard]
