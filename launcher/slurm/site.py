"""The site file: what a cluster asks of a job, the same for every run on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from launcher.slurm.launch import LaunchName
from launcher.slurm.option_rules import broken_rule, broken_value_rule, unquoted_time_rule
from settings import Settings, compose
from settings.mistakes import KeyMistakeError


class SiteConfig(Settings):
    """The settings of a cluster. An empty text means that the batch file leaves the choice to Slurm."""

    partition: str = Field("", description="Partition of the jobs.")
    account: str = Field("", description="Account that the time is charged to.")
    qos: str = Field("", description="Quality of service that the jobs ask for.")
    time: str = Field("24:00:00", description='Time limit of an attempt, in quotes, such as "24:00:00".')
    ranks_per_node: int = Field(1, ge=1, description="Ranks of each node: one for each of its GPUs.")
    gpus_per_node: int = Field(0, ge=0, description="GPUs of each node; 0 for a cluster without GPUs.")
    gpu_memory_gib: float | None = Field(None, gt=0, description="Memory of a GPU; null: it is not checked.")
    gres: str = Field("", description="Generic resources of each node, such as gpu:h100:8.")
    launch: LaunchName = Field(
        "srun", description="How ranks are started: srun, a task a rank; or torchrun, one of them on each node."
    )
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

    @field_validator("time", mode="before")
    @classmethod
    def _is_quoted(cls, time: Any) -> Any:
        if isinstance(time, int) and not isinstance(time, bool):
            raise ValueError(unquoted_time_rule(time))
        return time

    @field_validator("partition", "account", "qos", "gres", "time", "memory")
    @classmethod
    def _fits_its_line(cls, value: str, info: ValidationInfo) -> str:
        name = str(info.field_name)
        if rule := broken_value_rule("mem" if name == "memory" else name, value):
            raise ValueError(rule)
        return value

    @field_validator("environment")
    @classmethod
    def _are_names_of_variables(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                rule = "the name of a variable must be letters, digits and _, and must not begin with a digit"
                raise KeyMistakeError(name, value, rule)
        return environment

    @field_validator("sbatch", mode="before")
    @classmethod
    def _times_are_quoted(cls, options: Any) -> Any:
        for name in ("time", "time-min"):
            value = options.get(name) if isinstance(options, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool):
                raise KeyMistakeError(name, value, unquoted_time_rule(value))
        return options

    @field_validator("sbatch")
    @classmethod
    def _leaves_lehr_its_own(cls, options: dict[str, str]) -> dict[str, str]:
        for name, value in options.items():
            if rule := broken_rule(name, value):
                raise KeyMistakeError(name, value, rule)
        return options


def read_site(path: Path | None) -> SiteConfig:
    """Reads a site file; without one, Slurm's own defaults hold. Raises UserError."""
    return SiteConfig() if path is None else compose(SiteConfig, path)
