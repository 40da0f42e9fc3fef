"""`lehr doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from launcher.exit_codes import DONE, FAILED
from launcher.processes.environment import available_cores, prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS
from launcher.run.machine import GIB, free_bytes, look
from settings.packages import installed_version

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["ok", "note", "missing"]
# A rank opens shards, checkpoints, sockets to every other rank, and inductor's files.
_OPEN_FILES = 4096
_SHARED_MEMORY_GIB = 1.0
_FREE_DISK_GIB = 10.0
_MEMORY_GIB = 4.0
# Packages whose import alone says whether they were built for this machine, and the module to import.
_ENGINES = {
    "torch": "torch",
    "megatron-core": "megatron.core",
    "deepspeed": "deepspeed",
    "datatrove": "datatrove",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "tensorboard": "tensorboard",
}
_SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `missing` keeps lehr from training here; a `note` limits what can be done."""

    name: str
    state: State
    found: str
    mend: str = ""


def doctor() -> None:
    """What this machine has, what is missing, and the command that mends it.

    Exit code 0 if a model can be trained here, 1 if not.
    """
    prepare_process(SINGLE_PROCESS)
    findings = list(examine())
    show(findings, Console(soft_wrap=True))
    raise SystemExit(FAILED if any(finding.state == "missing" for finding in findings) else DONE)


def examine() -> Iterator[Finding]:
    """Look at everything, in the order in which things build on each other."""
    for part in LOOKS:
        try:
            yield from part()
        except Exception as error:  # a broken package must not hide what else is wrong
            yield Finding(part.__name__.strip("_"), "missing", f"cannot be examined: {type(error).__name__}: {error}")


def show(findings: list[Finding], console: Console) -> None:
    """A table, then the commands that mend, then the verdict."""
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, finding.found)
    console.print(table)
    mends = [finding for finding in findings if finding.mend]
    if mends:
        console.print()
    for finding in mends:
        console.print(f"{marks[finding.state]} {finding.name}: {finding.mend}", highlight=False)
    blocking = [finding.name for finding in findings if finding.state == "missing"]
    verdict = f"cannot train here yet: {', '.join(blocking)}" if blocking else "ready to train on this machine"
    console.print(f"\n{verdict}", highlight=False)


def _python() -> Iterator[Finding]:
    fits = sys.version_info >= (3, 11)
    where = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok" if fits else "missing", where, "" if fits else "install Python 3.11 or later")


def _packages() -> Iterator[Finding]:
    """Every package that lehr requires: there, of a version that it allows, and the great ones importable."""
    if installed_version("lehr") is None:
        yield Finding("lehr", "note", "runs from its folder, not installed", "pip install -c constraints.txt -e .")
    for package, module in _ENGINES.items():
        version = installed_version(package)
        if version is None:
            yield Finding(package, "missing", "not installed", _install(package))
            continue
        failure = _import_failure(module)
        if failure is not None:
            yield Finding(package, "missing", f"{version}, but importing it fails: {failure}", _install(package))
        elif not _is_allowed(package, version):
            yield Finding(package, "note", f"{version}, outside the range that lehr asks for", _install(package))
        else:
            yield Finding(package, "ok", version)
    others = sorted(set(_requirements()) - set(_ENGINES))
    absent = [package for package in others if installed_version(package) is None]
    for package in absent:
        yield Finding(package, "missing", "not installed", _install(package))
    unfit = [package for package in others if (there := installed_version(package)) and not _is_allowed(package, there)]
    for package in unfit:
        yield Finding(
            package, "note", f"{installed_version(package)}, outside the range that lehr asks for", _install(package)
        )
    fit = len(others) - len(absent) - len(unfit)
    if fit:
        yield Finding("other packages", "ok", f"{fit} that lehr requires")


def _devices() -> Iterator[Finding]:
    import torch

    machine = look()
    if machine.gpus:
        memory = machine.gpu_bytes / GIB
        found = f"{machine.gpus} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each, CUDA {torch.version.cuda}"
        yield Finding("gpu", "ok", found)
        if importlib.util.find_spec("flash_attn") is None:
            mend = "pip install 'lehr[gpu]' --no-build-isolation"
            yield Finding("flash-attn", "note", "not installed: attention by torch, document masks cost more", mend)
        else:
            yield Finding("flash-attn", "ok", installed_version("flash-attn") or "there")
        bfloat16 = torch.cuda.is_bf16_supported()
        yield Finding(
            "bfloat16", "ok" if bfloat16 else "note", "yes" if bfloat16 else "no: use train.precision=float32"
        )
        return
    if machine.nvidia_driver and machine.cpu_build:
        mend = "pip install torch with CUDA (https://pytorch.org/get-started/locally)"
        yield Finding("gpu", "note", f"there is a driver, but torch {torch.__version__} is built without CUDA", mend)
    else:
        yield Finding("gpu", "note", "none: training runs on the CPU, over gloo")


def _compiler() -> Iterator[Finding]:
    found = next((path for name in ("g++", "clang++") if (path := shutil.which(name))), None)
    if found:
        yield Finding("compiler", "ok", found)
    else:
        yield Finding("compiler", "note", "none: train.compile cannot be used", "apt-get install g++")


def _machine() -> Iterator[Finding]:
    available = available_cores()
    yield Finding("cores", "ok", f"{available} for this process, {os.cpu_count()} in all")
    memory = free_bytes() / GIB
    low = memory < _MEMORY_GIB
    mend = "end other programs, or train a smaller model" if low else ""
    yield Finding("memory", "note" if low else "ok", f"{memory:.1f} GiB free", mend)
    yield from _shared_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES
    mend = "" if enough else f"ulimit -n {_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)}"
    yield Finding("open files", "ok" if enough else "note", f"at most {soft}, want {_OPEN_FILES}", mend)
    free = shutil.disk_usage(Path.cwd()).free / GIB
    low = free < _FREE_DISK_GIB
    mend = f"free some, or set run.folder and data.shards to a disk with {_FREE_DISK_GIB:.0f} GiB" if low else ""
    yield Finding("disk", "note" if low else "ok", f"{free:.1f} GiB free in {Path.cwd()}", mend)
    writable = os.access(Path.cwd(), os.W_OK)
    if not writable:
        yield Finding("disk", "note", f"{Path.cwd()} cannot be written to", "set run.folder to a folder of your own")


def _shared_memory() -> Iterator[Finding]:
    path = Path("/dev/shm")
    if not path.is_dir():
        yield Finding("shared memory", "note", "no /dev/shm", "mount -t tmpfs tmpfs /dev/shm")
        return
    size = shutil.disk_usage(path).total / GIB
    low = size < _SHARED_MEMORY_GIB  # 64 MiB in a container by default; NCCL needs more between 8 GPUs
    mend = "start the container with --shm-size=8g, or mount -o remount,size=8G /dev/shm" if low else ""
    yield Finding("shared memory", "note" if low else "ok", f"{size:.1f} GiB in /dev/shm", mend)


def _slurm() -> Iterator[Finding]:
    there = [name for name in _SLURM_COMMANDS if shutil.which(name)]
    if len(there) == len(_SLURM_COMMANDS):
        yield Finding("slurm", "ok", ", ".join(there))
    elif there:
        absent = sorted(set(_SLURM_COMMANDS) - set(there))
        yield Finding("slurm", "note", f"{', '.join(absent)} missing", "apt-get install slurm-client")
    else:
        yield Finding("slurm", "note", "none: one machine, or torchrun")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _packages, _devices, _compiler, _machine, _slurm)


def _import_failure(module: str) -> str | None:
    """Why a module cannot be imported, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def _requirements() -> dict[str, Requirement]:
    """What lehr's own metadata asks for, by package; nothing where lehr is not installed."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("lehr") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = map(Requirement, texts)
    return {requirement.name: requirement for requirement in requirements if requirement.marker is None}


def _is_allowed(package: str, version: str) -> bool:
    """Whether the version is in the range that lehr asks for."""
    requirement = _requirements().get(package)
    return requirement is None or requirement.specifier.contains(version, prereleases=True)


def _install(package: str) -> str:
    return f"pip install -c constraints.txt '{package}', or make install"
