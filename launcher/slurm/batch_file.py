"""The batch files: job.sbatch for a run and command.sbatch for any other command, filled in with a site's settings."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from launcher.slurm.launch import Launch
from launcher.slurm.option_rules import broken_value_rule
from launcher.slurm.site import SiteConfig
from settings import UserError
from settings.mistakes import show_value
from settings.packages import installed_version
from train.run_folder.start_record import git_commit

RUN_TEMPLATE = Path(__file__).with_name("job.sbatch")
COMMAND_TEMPLATE = Path(__file__).with_name("command.sbatch")
WAIT_SECONDS = 40  # that the other ranks have after one has ended: to hear of a mistake they need up to 30 s


def fill_in(template: Path, site: SiteConfig, options: Mapping[str, str], *, launch: Launch, **values: str) -> str:
    """Returns the text of a batch file. Raises UserError for an option whose value breaks a rule.

    `options`: of sbatch, without dashes, in order. `launch`: how srun starts its tasks. `values`: those of the template
    that do not follow from the site.
    """
    for name, value in options.items():
        if rule := broken_value_rule(name, value):  # such as the output, which lies in the run folder
            raise UserError(f"--{name} of sbatch = {show_value(value)}: {rule}")
    lines = [f"#SBATCH --{name}{_value(value)}" for name, value in options.items()]
    return Template(template.read_text(encoding="utf-8")).substitute(
        options="\n".join(lines),
        setup="".join(f"{line}\n" for line in _setup(site)),
        launch_notes=launch.comment,
        launch_command=launch.command,
        tasks_per_node=launch.tasks_per_node(site.ranks_per_node),
        srun_options=shlex.join(_srun_options(site, launch.cpus_per_task(site.ranks_per_node, site.cpus_per_task))),
        wait_seconds=WAIT_SECONDS,
        **values,
    )


def _value(value: str) -> str:
    """Returns the end of a line of sbatch, which takes a value to end at a space unless it is quoted."""
    quoted = f'"{value}"' if any(character.isspace() for character in value) else value
    return f"={quoted}" if value else ""


def described(command: Sequence[str]) -> dict[str, str]:
    """Returns the values of a template that say who has written it: command, date, version and git commit."""
    return {
        "command": " ".join(shlex.join(command).splitlines()),  # in a comment, which is one line
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": installed_version("lehr") or "unknown",
        "git": git_commit(Path(__file__).parent) or "unknown",
    }


def options_of(site: SiteConfig, *, name: str, output: Path, nodes: str) -> dict[str, str]:
    """Returns the options of sbatch that follow from the site.

    With a number of tasks, Slurm takes the fewest nodes of a range that hold them: a range asks for cores instead.
    """
    cores = site.cpus_per_task or 1
    if "-" in nodes:
        size = {"mincpus": str(site.ranks_per_node * cores)}
    else:
        size = {"ntasks-per-node": str(site.ranks_per_node)}
        size |= {"cpus-per-task": str(cores)} if site.cpus_per_task else {}
    named = {
        "job-name": name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "time": site.time,
        "gres": site.gres,
        "mem": site.memory,
    }
    return {
        **{option: value for option, value in named.items() if value},
        "nodes": nodes,
        **size,
        # Every rank receives the signal, and saves; Slurm may send it up to a minute early.
        "signal": f"USR1@{site.notice_seconds}",
        "requeue": "",
        "open-mode": "append",
        "output": str(output),
        **site.sbatch,
    }


def _setup(site: SiteConfig) -> Sequence[str]:
    """Returns the lines of shell before the ranks start."""
    lines = [f"module load {shlex.quote(module)}" for module in site.modules]
    lines += site.setup
    lines += [f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()]
    if site.interface:
        lines += [f"export {library}_SOCKET_IFNAME={shlex.quote(site.interface)}" for library in ("GLOO", "NCCL")]
    return lines


def _srun_options(site: SiteConfig, cpus_per_task: int | None) -> list[str]:
    options = ["--kill-on-bad-exit=0", f"--wait={WAIT_SECONDS}"]
    if cpus_per_task:
        options.append(f"--cpus-per-task={cpus_per_task}")  # since 22.05 srun does not take it from the job
    if site.cpu_bind:
        options.append(f"--cpu-bind={site.cpu_bind}")
    return [*options, *site.container]
