"""The hardware of this machine, and the checks of a config against it before a process is started.

Only `read_machine` reads the machine; the checks take its result, so they are the same with a GPU as without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.processes.environment import gpus_are_hidden
from settings import UserError

if TYPE_CHECKING:
    from launcher.processes.rank_info import RankInfo
    from launcher.run.config import RunConfig
    from model.config import ModelConfig

GIB = 1024**3
_UNKNOWN = 2**62  # more than any machine has: what is not known is not checked


@dataclass(frozen=True)
class Machine:
    """The hardware that a run can use."""

    gpus: int  # those that torch can use
    gpu_bytes: int  # memory of the smallest GPU
    free_bytes: int  # of main memory
    cpu_build: bool  # torch is built without GPU support
    gpu_name: str  # torch's name of the first GPU; "" without one
    tf32: bool  # whether torch may compute products of float32 in TF32
    nvidia_gpus: bool  # the system has NVIDIA GPUs that this process may open, whether torch can use them or not


def read_machine() -> Machine:
    """Reads what this process may use of the machine."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        gpus=gpus,
        gpu_bytes=min((torch.cuda.get_device_properties(gpu).total_memory for gpu in range(gpus)), default=0),
        free_bytes=free_bytes(),
        cpu_build=torch.version.cuda is None and torch.version.hip is None,
        gpu_name=torch.cuda.get_device_name(0) if gpus else "",
        tf32=torch.get_float32_matmul_precision() != "highest",
        nvidia_gpus=any(Path("/dev").glob("nvidia[0-9]*")) and not gpus_are_hidden(),
    )


def machine_elsewhere(*, gpus: int, gpu_bytes: int | None = None) -> Machine:
    """Returns a machine that a config is checked for without being on it; what is not known of it is not checked."""
    return Machine(
        gpus=gpus,
        gpu_bytes=_UNKNOWN if gpu_bytes is None else gpu_bytes,
        free_bytes=_UNKNOWN,
        cpu_build=False,
        gpu_name="",
        tf32=True,
        nvidia_gpus=gpus > 0,
    )


def check_machine(config: RunConfig, machine: Machine, rank_info: RankInfo | None) -> None:
    """Checks the device, the number of ranks and the kernels.

    `rank_info`: this process's place if torchrun or srun started it, else None. Raises UserError if `train.device`
    cannot be used, if lehr would start more ranks than there are GPUs, and if a kernel cannot run here.
    """
    import torch

    from model.kernel_choice import AttentionSetting, choose_kernel
    from model.loss_kernels import choose_loss_kernel

    _check_device(config.train.device, machine)
    wanted = config.parallel.ranks
    if rank_info is None and 0 < machine.gpus < wanted:
        raise UserError(
            f"parallel.tensor x parallel.pipeline x parallel.data = {wanted} ranks need a GPU each, and this machine "
            f"shows {machine.gpus}; make it at most {machine.gpus}, or start the ranks on several machines with srun "
            "or torchrun"
        )
    device = torch.device("cuda" if machine.gpus else "cpu")
    dtype = getattr(torch, config.train.precision)
    choose_kernel(config.train.attention, AttentionSetting(device, dtype))
    choose_loss_kernel(config.train.cross_entropy, device, dtype, tried=False)


def _check_device(device: str, machine: Machine) -> None:
    """Raises UserError if the GPU that a run needs cannot be used: a run never goes to the CPU unasked."""
    if device == "cpu" and machine.gpus:
        raise UserError(
            "train.device = cpu: it is read too late to hide the GPUs, because the config is no regular file; "
            "give train.device=cpu on the command line too, or set CUDA_VISIBLE_DEVICES to nothing"
        )
    if machine.gpus or device == "cpu" or (device == "auto" and not machine.nvidia_gpus):
        return
    if not machine.nvidia_gpus:
        reason = "this process sees no GPU"
    elif machine.cpu_build:
        reason = "there is an NVIDIA GPU, but torch is built without CUDA"
    else:
        reason = "there is an NVIDIA GPU, but torch cannot use it (a driver that is too old, or a GPU in error)"
    raise UserError(
        f"train.device = {device}: {reason}; `lehr doctor` says more, and train.device=cpu trains on the CPU"
    )


def precision_warnings(config: RunConfig, machine: Machine) -> list[str]:
    """Returns a warning if a GPU is to compute in float32 without TF32, which it does many times slower."""
    if not machine.gpus or config.train.precision != "float32" or machine.tf32:
        return []
    from train.metrics.hardware import gpu_peak  # imports torch

    in_float32, in_bfloat16 = (gpu_peak(machine.gpu_name, precision).flops for precision in ("float32", "bfloat16"))
    peaks = "several times slower than bfloat16"
    if in_float32 is not None and in_bfloat16 is not None:
        peaks = f"at most {in_float32 / 1e12:.0f} TFLOP/s, where bfloat16 has {in_bfloat16 / 1e12:.0f}"
    return [
        f"train.precision = float32 without TF32 is slow on a GPU: {peaks} ({machine.gpu_name}). "
        "train.precision=bfloat16 keeps masters, gradient sums and optimizer state in float32; the variable "
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 allows TF32, which rounds the factors of products to 10 bits"
    ]


def memory_warnings(config: RunConfig, model: ModelConfig, machine: Machine, rank_info: RankInfo | None) -> list[str]:
    """Returns a warning if the fullest rank is estimated to need more than its GPU has, or all ranks of this machine
    together more than its free memory."""
    from launcher.run.estimate import estimate_step  # imports torch

    parallel = config.parallel
    world_size, local_world_size = (
        (parallel.ranks, parallel.ranks) if rank_info is None else (rank_info.world_size, rank_info.local_world_size)
    )
    step = estimate_step(config, model, world_size=world_size)
    rank, batches = step.rank, step.batch_bytes
    offloaded = rank.optimizer if parallel.offload == "optimizer" else 0
    gpu_needs, memory_needs = (rank.total - offloaded, offloaded) if machine.gpus else (0, rank.total)
    smaller = "train.recompute=full or a smaller train.micro_batch_size need less"
    if batches > memory_needs:
        smaller = "a smaller train.global_batch_size, which counts rows and not tokens, needs less"
    checks = (
        (
            gpu_needs,
            machine.gpu_bytes,
            "the fullest rank needs about {} GiB, and a GPU has {}; more ranks, "
            "train.recompute=full or a smaller train.micro_batch_size need less",
        ),
        (
            local_world_size * (memory_needs + batches),
            machine.free_bytes,
            "the ranks on this machine need about {} GiB of memory, and {} are free; " + smaller,
        ),
    )
    return [
        text.format(f"{needed / GIB:.1f}", f"{available / GIB:.1f}") + " (by arithmetic, for two moments a weight)"
        for needed, available, text in checks
        if needed > available
    ]


def free_bytes() -> int:
    """Returns the bytes that can be used without swapping, within this process's control group."""
    import psutil

    available = int(psutil.virtual_memory().available)
    for folder, limit, used, cache in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / used).read_text()) - int(statistics[cache])  # the page cache is freed when needed
            available = min(available, int((folder / limit).read_text()) - taken)
        except (OSError, ValueError, KeyError):  # there is no such group, or its limit is "max"
            continue
    return available
