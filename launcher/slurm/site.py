"""The site file: what a cluster asks of a job, the same for every run on it."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from settings import Settings, UserError, compose

# The options of sbatch that follow from the command, or that a job which starts again needs as they are.
SET_BY_LEHR = (
    "nodes",
    "array",
    "ntasks-per-node",
    "requeue",
    "no-requeue",
    "hold",
    "open-mode",
    "output",
    "signal",
)


class SiteConfig(Settings):
    """The settings of a cluster. Empty means that the batch file leaves the choice to Slurm."""

    partition: str = Field("", description="Partition of the jobs.")
    account: str = Field("", description="Account that the time is charged to.")
    qos: str = Field("", description="Quality of service that the jobs ask for.")
    time: str = Field("24:00:00", description="Time limit of an attempt, as hours:minutes:seconds.")
    ranks_per_node: int = Field(1, ge=1, description="Ranks of each node: one for each of its GPUs.")
    gpus_per_node: int = Field(0, ge=0, description="GPUs of each node; 0 for a cluster without GPUs.")
    gpu_memory_gib: float | None = Field(None, gt=0, description="Memory of a GPU; null: it is not checked.")
    gres: str = Field("", description="Generic resources of each node, such as gpu:h100:8.")
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores of each rank, which bound its threads.")
    cpu_bind: str = Field("", description="How srun binds ranks to cores, such as cores, or none.")
    memory: str = Field("", description="Main memory of each node, such as 500G; 0 means all of it.")
    modules: list[str] = Field([], description="Environment modules that each job loads.")
    setup: list[str] = Field([], description="Lines of shell that each job runs first, such as one that opens a venv.")
    environment: dict[str, str] = Field({}, description="Variables that each job sets.")
    container: list[str] = Field(
        [], description="Options of srun that start the ranks in a container, such as --container-image=IMAGE."
    )
    interface: str = Field(
        "", description="Network interface of the ranks, for gloo and NCCL; empty: that of the route to the first node."
    )
    pre_launch: str = Field(
        "", description="A command of the site that checks a node before the ranks start; it fails on a bad node."
    )
    notice_seconds: int = Field(
        300, ge=30, description="Seconds before the time limit at which every rank is told to save and stop."
    )
    max_failures: int = Field(
        3, ge=0, description="Starts without a new checkpoint after which a job ends, instead of starting once more."
    )
    sbatch: dict[str, str] = Field({}, description="Further options of sbatch, without their dashes.")

    @field_validator("sbatch")
    @classmethod
    def _leaves_lehr_its_own(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            check_option(name)
        return options


def limit_seconds(time: str) -> int | None:
    """Returns the seconds of a time limit in any of Slurm's forms, from `90` (minutes) to `1-12:00:00`; else None."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        return None  # such as UNLIMITED
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86_400 + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def check_option(name: str) -> None:
    """Raises UserError for an option of sbatch that lehr sets itself."""
    if name in SET_BY_LEHR:
        raise UserError(f"lehr sets --{name} of sbatch itself, from its own options and the site file; remove it")


def read_site(path: Path | None) -> SiteConfig:
    """Reads a site file; without one, Slurm's own defaults hold. Raises UserError."""
    return SiteConfig() if path is None else compose(SiteConfig, path)
