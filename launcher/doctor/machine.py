"""Checks the machine: GPUs, compiler, cores, memory, disk and Slurm."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding
from launcher.processes.environment import available_cores, gloo_interface
from launcher.run.machine import GIB, free_bytes, read_machine

# A rank opens shards, checkpoints, sockets to every other rank, and inductor's files.
_OPEN_FILES = 4096
_SHARED_MEMORY_GIB = 1.0
_FREE_DISK_GIB = 10.0
_MEMORY_GIB = 4.0
_SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


def check_devices() -> Iterator[Finding]:
    """Checks the GPUs, and the packages that use them."""
    import torch

    machine = read_machine()
    if machine.gpus:
        memory = machine.gpu_bytes / GIB
        result = f"{machine.gpus} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each, CUDA {torch.version.cuda}"
        yield Finding("gpu", "ok", result)
        yield _attention_kernel()
        yield _cross_entropy_kernel()
        bfloat16 = torch.cuda.is_bf16_supported()
        yield Finding(
            "bfloat16", "ok" if bfloat16 else "note", "yes" if bfloat16 else "no: use train.precision=float32"
        )
    elif machine.nvidia_gpus and machine.cpu_build:
        fix = "pip install torch with CUDA (https://pytorch.org/get-started/locally)"
        yield Finding("gpu", "note", f"there is a driver, but torch {torch.__version__} is built without CUDA", fix)
    else:
        yield Finding("gpu", "note", "none: training runs on the CPU, over gloo")


def _attention_kernel() -> Finding:
    """Tries the kernels of bfloat16 attention, for heads of 128 features."""
    import torch

    from model.kernel_choice import AttentionSetting, choose_kernel, try_kernel

    setting = AttentionSetting.on(torch.device("cuda"), torch.bfloat16)
    kernel = choose_kernel("auto", setting, lambda name: try_kernel(name, setting, heads=4, kv_heads=2, head_size=128))
    if kernel != "sdpa":
        return Finding("attention", "ok", f"{kernel}: documents need no mask of all pairs of tokens")
    reason = try_kernel("varlen", setting, heads=4, kv_heads=2, head_size=128)
    result = f"sdpa: documents need a mask of all pairs of tokens, since torch's varlen cannot be used: {reason}"
    return Finding("attention", "note", result, "install torch 2.13 or newer, or flash-attn")


def _cross_entropy_kernel() -> Finding:
    """Tries Triton's kernel of the cross-entropy in bfloat16."""
    import torch

    from model.loss_kernels import why_not_loss_kernel

    reason = why_not_loss_kernel("triton", torch.device("cuda"), torch.bfloat16)
    if reason is None:
        return Finding("cross-entropy", "ok", "triton")
    return Finding(
        "cross-entropy", "note", f"torch's operations, which are slower, since triton cannot be used: {reason}"
    )


def check_compiler() -> Iterator[Finding]:
    """Checks that there is a C++ compiler."""
    path = next((path for name in ("g++", "clang++") if (path := shutil.which(name))), None)
    if path:
        yield Finding("compiler", "ok", path)
    else:
        yield Finding("compiler", "note", "none: train.compile cannot be used", "apt-get install g++")


def check_machine() -> Iterator[Finding]:
    """Checks cores, memory, shared memory, the limit of open files, and the disk of the current folder."""
    yield Finding("cores", "ok", f"{available_cores()} for this process, {os.cpu_count()} in all")
    memory = free_bytes() / GIB
    low = memory < _MEMORY_GIB
    fix = "end other programs, or train a smaller model" if low else ""
    yield Finding("memory", "note" if low else "ok", f"{memory:.1f} GiB free", fix)
    yield from _check_shared_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES  # lehr has raised it as far as it may
    fix = "" if enough else f"ask the administrator for a hard limit (ulimit -Hn) of {_OPEN_FILES}; it is {hard}"
    yield Finding("open files", "ok" if enough else "note", f"at most {soft}; lehr needs {_OPEN_FILES}", fix)
    free = shutil.disk_usage(Path.cwd()).free / GIB
    low = free < _FREE_DISK_GIB
    fix = f"free some, or set run.folder and data.shards to a disk with {_FREE_DISK_GIB:.0f} GiB" if low else ""
    yield Finding("disk", "note" if low else "ok", f"{free:.1f} GiB free in {Path.cwd()}", fix)
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding("disk", "note", f"{Path.cwd()} cannot be written to", "set run.folder to a folder of your own")


def _check_shared_memory() -> Iterator[Finding]:
    path = Path("/dev/shm")
    if not path.is_dir():
        yield Finding("shared memory", "note", "no /dev/shm", "mount -t tmpfs tmpfs /dev/shm")
        return
    size = shutil.disk_usage(path).total / GIB
    low = size < _SHARED_MEMORY_GIB  # 64 MiB in a container by default; NCCL needs more between 8 GPUs
    fix = "start the container with --shm-size=8g, or mount -o remount,size=8G /dev/shm" if low else ""
    yield Finding("shared memory", "note" if low else "ok", f"{size:.1f} GiB in /dev/shm", fix)


def check_network() -> Iterator[Finding]:
    """Checks over which network interface gloo would reach other nodes."""
    interface = gloo_interface(socket.gethostname(), across_nodes=True)
    if interface is not None:
        yield Finding("network", "ok", f"{interface} between nodes (GLOO_SOCKET_IFNAME chooses another)")
    else:
        fix = "GLOO_SOCKET_IFNAME=INTERFACE for runs of several nodes"
        yield Finding("network", "note", "no route to other machines: gloo's interface between nodes is unknown", fix)


def check_slurm() -> Iterator[Finding]:
    """Checks which of Slurm's commands are installed."""
    installed = [name for name in _SLURM_COMMANDS if shutil.which(name)]
    if len(installed) == len(_SLURM_COMMANDS):
        yield Finding("slurm", "ok", ", ".join(installed))
    elif installed:
        missing = sorted(set(_SLURM_COMMANDS) - set(installed))
        yield Finding("slurm", "note", f"{', '.join(missing)} missing", "apt-get install slurm-client")
    else:
        yield Finding("slurm", "note", "none: one machine, or torchrun")
