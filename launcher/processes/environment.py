"""The environment of this process, read and set: the only file that touches os.environ."""

from __future__ import annotations

import contextlib
import os
import resource
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.processes.network_interface import interface_to
from launcher.processes.rank_info import SINGLE_PROCESS, RankInfo, read_int, read_torchrun_variables, torchrun_variables
from launcher.processes.slurm import (
    SlurmJob,
    allocated_cores,
    ask_job_end_time,
    cores_of_task,
    first_node_address,
    is_srun_rank,
    read_job_end_time,
    read_slurm_job,
    read_slurm_variables,
)
from settings import UserError

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_OPENMP_THREADS = "OMP_NUM_THREADS"
_MOST_THREADS_PER_CORE = 8  # a larger number is a typing error, and soon more threads than a process may have
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")  # those that torch takes for deterministic


def read_rank_info(environ: Mapping[str, str] | None = None) -> RankInfo:
    """Reads this process's place: a rank of lehr's own launcher, of torchrun or of srun, or a process on its own.

    torchrun's variables come before srun's, because `srun torchrun` sets both. Raises UserError if the variables
    contradict each other.
    """
    environ = os.environ if environ is None else environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return read_torchrun_variables(environ)
    return read_slurm_variables(environ) if is_srun_rank(environ) else SINGLE_PROCESS


def check_single_process(command: str) -> None:
    """Raises UserError if torchrun or srun has started the command several times: each would do the same."""
    try:
        rank_info = read_rank_info()
    except UserError:  # a single process does not mind variables that contradict each other
        return
    if rank_info.world_size > 1:
        raise UserError(
            f"{command} runs in one process, and {rank_info.launcher} has started {rank_info.world_size}: start it by "
            "itself"
        )


def slurm_job(environ: Mapping[str, str] | None = None) -> SlurmJob | None:
    """Reads the Slurm job of this process; None outside of Slurm. Raises UserError."""
    return read_slurm_job(os.environ if environ is None else environ)


def first_node_of_step() -> str:
    """Returns the address at which the ranks of this step would meet. Raises UserError."""
    return first_node_address(os.environ)


def is_first_node_of_step() -> bool:
    """Returns whether this process of srun runs on the first node of its step. Raises UserError."""
    return read_int(os.environ, "SLURM_NODEID", "0") == 0


def place_of_node() -> RankInfo:
    """Returns the place of this node in a step that has a task a node, and where the nodes meet. Raises UserError."""
    return read_slurm_variables(os.environ)


def job_end_time(environ: Mapping[str, str] | None = None, *, asks_slurm: bool = False) -> float | None:
    """Reads when Slurm will end the job, on the clock of time.time(); None without a limit. Raises UserError.

    `asks_slurm`: asks the controller if no variable says it. One rank does so for all, since all of them stop with it.
    """
    environ = os.environ if environ is None else environ
    found = read_job_end_time(environ)
    if found is None and asks_slurm and (job := read_slurm_job(environ)) is not None:
        return ask_job_end_time(job.job_id)
    return found


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Returns the folder in which lehr keeps what it can make again: `lehr` in XDG_CACHE_HOME, or in ~/.cache."""
    base = (os.environ if environ is None else environ).get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored: https://specifications.freedesktop.org/basedir-spec
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "lehr"


def check_environment() -> None:
    """Raises UserError if a variable that a run reads later, in its ranks, has a wrong value."""
    job_end_time()
    slurm_job()
    _openmp_threads(os.environ)


def export_rank_info(rank_info: RankInfo, *, console_columns: int | None = None) -> None:
    """Sets the variables from which `read_rank_info` reads the rank's place, here or in a program that replaces this.

    `console_columns`: the rank's output is forwarded to a terminal of this width, so it may draw as on a terminal.
    """
    os.environ.update(torchrun_variables(rank_info))
    os.environ["PYTHONUNBUFFERED"] = "1"
    if console_columns is not None:
        os.environ.update({"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": str(console_columns)})


@contextlib.contextmanager
def one_openmp_thread() -> Iterator[None]:
    """Keeps libraries that are imported within from starting threads, which a later fork would lose.

    `prepare_process` sets the number of threads after the fork.
    """
    before = os.environ.get(_OPENMP_THREADS)
    os.environ[_OPENMP_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_OPENMP_THREADS]
        if before is not None:
            os.environ[_OPENMP_THREADS] = before


def prepare_process(rank_info: RankInfo) -> None:
    """Sets what the libraries read when they are imported, the number of torch's threads, and the limit of open files.

    Unless the user has set OMP_NUM_THREADS, a rank gets the cores that `srun --cpus-per-task` gave it, or its share of
    those of the node. Raises UserError if a variable has a wrong value.
    LOCAL_RANK becomes the number of the rank's GPU, because DeepSpeed takes it for that, and demands it of a single
    process and of srun's ranks too.
    """
    threads = _openmp_threads(os.environ)
    if threads is None or (rank_info.has_agent and threads == 1 and _agent_has_set_threads()):
        cores = cores_of_task(os.environ) if rank_info.launcher == "srun" else None  # of torchrun it is a node's task
        threads = cores or max(1, available_cores() // rank_info.local_world_size)
        os.environ[_OPENMP_THREADS] = str(threads)
    across_nodes = rank_info.local_world_size < rank_info.world_size
    if rank_info.world_size > 1 and (interface := gloo_interface(rank_info.master_addr, across_nodes=across_nodes)):
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    _raise_open_files_limit()
    prepare_imports()
    import torch

    os.environ["LOCAL_RANK"] = str(rank_info.gpu(torch.cuda.device_count()))
    torch.set_num_threads(threads)


def fix_cublas_workspace() -> None:
    """Gives cuBLAS a workspace with which it is deterministic, if the environment sets none. Before CUDA is used.

    See "Results reproducibility" in NVIDIA's documentation of cuBLAS.
    """
    if os.environ.get(_CUBLAS_WORKSPACE) not in _DETERMINISTIC_WORKSPACES:
        os.environ[_CUBLAS_WORKSPACE] = _DETERMINISTIC_WORKSPACES[0]


def hide_gpus() -> None:
    """Makes the GPUs invisible to torch in this process and its children. To be called before torch has looked."""
    os.environ[_VISIBLE_GPUS] = ""


def order_cuda_kernels() -> None:
    """Makes a GPU start its kernels in the order of the calls. To be called before CUDA starts.

    Tensor parallelism overlaps by this order: a matrix product that is called after a sum over the ranks would else
    take the whole GPU first. Without tensor parallelism, more queues let copies and sums run beside the computation.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def visible_gpus(count: int) -> list[str]:
    """Returns the names by which a child's CUDA_VISIBLE_DEVICES may choose among the `count` GPUs of this process."""
    named = [name.strip() for name in os.environ.get(_VISIBLE_GPUS, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def limit_to(*, gpus: Sequence[str], threads: int) -> None:
    """Gives this process and its children these GPUs (all if empty) and, unless the user has set it, these threads."""
    if gpus:
        os.environ[_VISIBLE_GPUS] = ",".join(gpus)
    if _openmp_threads(os.environ) is None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def gpus_are_hidden() -> bool:
    """Returns whether CUDA_VISIBLE_DEVICES hides all GPUs from this process."""
    return os.environ.get(_VISIBLE_GPUS, "0").strip() in ("", "-1")


def gloo_interface(master_addr: str, *, across_nodes: bool) -> str | None:
    """Returns the network interface for gloo: GLOO_SOCKET_IFNAME, or that of the route to the first node; else None."""
    return os.environ.get("GLOO_SOCKET_IFNAME") or interface_to(master_addr, across_nodes=across_nodes)


def _raise_open_files_limit() -> None:
    """Raises the limit of open files to what the system allows: gloo opens sockets to every other rank of a group."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def prepare_imports() -> None:
    """Sets what the libraries read when they are imported, as far as it does not depend on the rank."""
    if not any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # less of a GPU's memory is lost to fragments
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warns when a process forks
    # These are four lines per rank about optional extensions that are not used here.
    warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed", UserWarning, "megatron")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _openmp_threads(environ: Mapping[str, str]) -> int | None:
    """Reads OMP_NUM_THREADS, of a list such as `4,2` the first number; None if it is not set or empty."""
    first, comma, _ = environ.get(_OPENMP_THREADS, "").partition(",")
    if not first.strip() and not comma:
        return None
    most = _MOST_THREADS_PER_CORE * (os.cpu_count() or 1)
    return read_int({_OPENMP_THREADS: first}, _OPENMP_THREADS, least=1, most=most)


def _agent_has_set_threads() -> bool:
    """Returns whether torchrun's agent, the parent process, has set OMP_NUM_THREADS, and not the user.

    The agent sets it to 1 if the user has not set it. The kernel shows the variables with which the agent was started.
    """
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return not any(entry.startswith(f"{_OPENMP_THREADS}=".encode()) for entry in started_with.split(b"\0"))


def available_cores() -> int:
    """Returns the number of cores that this process may use: those the kernel allows, and Slurm gave the job."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, allocated_cores(os.environ) or allowed)
