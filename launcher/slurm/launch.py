"""The two ways in which a job starts its ranks: by srun, a task a rank, or by torchrun, one of them on each node."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

LaunchName = Literal["srun", "torchrun"]


@dataclass(frozen=True)
class Launch:
    """The start of the ranks in a batch file, and the comment beside it."""

    notes: str  # a paragraph, before the start
    tasks_are_ranks: bool  # else srun starts one task a node
    command: str  # of each task, in the words of the shell

    @property
    def comment(self) -> str:
        """The notes as a comment of the shell."""
        return textwrap.fill(self.notes, 120, initial_indent="# ", subsequent_indent="# ")

    def tasks_per_node(self, ranks_per_node: int) -> int:
        """Returns how many tasks srun starts on each node."""
        return ranks_per_node if self.tasks_are_ranks else 1

    def cpus_per_task(self, ranks_per_node: int, cpus_of_rank: int | None) -> int | None:
        """Returns the cores of each task; None leaves them to Slurm, which gives each task one."""
        return cpus_of_rank if self.tasks_are_ranks else ranks_per_node * (cpus_of_rank or 1)


LAUNCHES: dict[LaunchName, Launch] = {
    "srun": Launch(
        notes="A rank a task: srun gives each rank its place. The ranks meet on the first node, at a port that follows "
        "from the number of the job (MASTER_ADDR and MASTER_PORT, if set, count instead).",
        tasks_are_ranks=True,
        command='"$lehr" train "$run/slurm/config.yaml"',
    ),
    "torchrun": Launch(
        notes="A torchrun a node, which starts the ranks of its node: `lehr slurm torchrun` is torchrun with --nnodes, "
        "--node-rank, --nproc-per-node, --master-addr (the first node) and --master-port (from the number of the job) "
        "filled in; MASTER_ADDR and MASTER_PORT, if set, count instead. torchrun alone would end with exit "
        "code 1 whatever the codes of its ranks are, and SIGUSR1 would end it. `lehr slurm torchrun` passes Slurm's "
        "signals on to the ranks, and ends with the exit code of its ranks, such as 75 after an early stop.",
        tasks_are_ranks=False,
        command='"$lehr" slurm torchrun "$run"',
    ),
}
