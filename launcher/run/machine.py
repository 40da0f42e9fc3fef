"""What this machine has, and what of a config cannot run on it or hardly: told before a process is started.

Only `look` looks; the checks take what it found, so they are the same with a GPU as without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from settings import UserError

if TYPE_CHECKING:
    from launcher.processes.environment import Ranks
    from launcher.run.config import RunConfig
    from model.config import ModelConfig

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """What a run finds here."""

    gpus: int  # that torch can use
    gpu_bytes: int  # memory of the smallest of them
    free_bytes: int  # of main memory
    cpu_build: bool  # torch is built without GPUs
    nvidia_driver: bool


def look() -> Machine:
    """This machine, as this process may use it."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        gpus=gpus,
        gpu_bytes=min((torch.cuda.get_device_properties(gpu).total_memory for gpu in range(gpus)), default=0),
        free_bytes=free_bytes(),
        cpu_build=torch.version.cuda is None and torch.version.hip is None,
        nvidia_driver=Path("/proc/driver/nvidia/version").exists(),
    )


def check_machine(config: RunConfig, machine: Machine, ranks: Ranks | None) -> list[str]:
    """Warnings, a line each. `ranks`: this process's place where torchrun or srun started it, else None.

    Raises UserError where a launch of lehr's own has fewer GPUs than ranks, and for a kernel that cannot run here.
    """
    import torch

    from model.attention import choose_kernel

    wanted = config.parallel.ranks
    if ranks is None and 0 < machine.gpus < wanted:
        raise UserError(
            f"parallel.tensor x parallel.pipeline x parallel.data = {wanted} ranks need a GPU each, and this machine "
            f"shows {machine.gpus}; make it at most {machine.gpus}, or start the ranks on several machines with srun "
            "or torchrun"
        )
    device = torch.device("cuda" if machine.gpus else "cpu")
    choose_kernel(config.train.attention, device=device, dtype=getattr(torch, config.train.precision))
    if machine.nvidia_driver and machine.cpu_build:
        return [
            "there is an NVIDIA GPU, but torch is built without CUDA: this run is on the CPU; "
            "`lehr doctor` says what mends it"
        ]
    return []


def memory_warnings(config: RunConfig, model: ModelConfig, machine: Machine, ranks: Ranks | None) -> list[str]:
    """Where the fullest rank's bytes, by arithmetic, are more than its GPU or all ranks' share of this machine has."""
    from model.memory import LayoutSizes, rank_bytes

    parallel, train = config.parallel, config.train
    world_size, here = (parallel.ranks, parallel.ranks) if ranks is None else (ranks.world_size, ranks.local_world_size)
    data = world_size // (parallel.tensor * parallel.pipeline)
    rank = rank_bytes(
        model,
        LayoutSizes(
            tensor=parallel.tensor,
            pipeline=parallel.pipeline,
            virtual_stages=parallel.virtual_stages,
            data=data,
            zero=parallel.zero,
            sequence=parallel.sequence,
            recompute=train.recompute,
            bfloat16=train.precision == "bfloat16",
        ),
        seq_length=train.seq_length,
        micro_batch_size=train.micro_batch_size,
        micro_batches=train.global_batch_size // (train.micro_batch_size * data),
    )
    offloaded = rank.optimizer if parallel.offload == "optimizer" else 0
    on_gpu, in_memory = (rank.total - offloaded, here * offloaded) if machine.gpus else (0, here * rank.total)
    found = (
        (on_gpu, machine.gpu_bytes, "the fullest rank needs about {} GiB, and a GPU has {}; more ranks, "),
        (in_memory, machine.free_bytes, "the ranks on this machine need about {} GiB of memory, and {} are free; "),
    )
    return [
        said.format(f"{needed / GIB:.1f}", f"{there / GIB:.1f}")
        + "train.recompute=full or a smaller train.micro_batch_size need less (by arithmetic, for two moments a weight)"
        for needed, there, said in found
        if needed > there
    ]


def free_bytes() -> int:
    """Bytes that can be used without swapping, within this process's control group."""
    import psutil

    available = int(psutil.virtual_memory().available)
    for folder, limit, used, cache in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / used).read_text()) - int(statistics[cache])  # files that were read give way
            available = min(available, int((folder / limit).read_text()) - taken)
        except (OSError, ValueError, KeyError):  # not in such a group, or "max"
            continue
    return available
