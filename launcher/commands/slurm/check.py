"""`lehr slurm check`: whether ranks should start on this node."""

from __future__ import annotations

import socket
import sys

from launcher.commands.arguments import RunFolderArgument
from launcher.exit_codes import FAILED
from launcher.processes.environment import first_node_of_step, is_first_node_of_step, slurm_job
from settings import UserError


def check_command(run: RunFolderArgument) -> None:
    """Check this node before the ranks of a job start: GPUs, memory, files, clock, network.

    The batch file of `lehr slurm submit` calls it on every node. Exit code 1: the node is bad; each problem is named.
    """
    from launcher.processes.rank_logs import log_folder
    from launcher.slurm.health import FirstNode, problem_lines, problems
    from launcher.slurm.job_folder import JobFolder
    from launcher.slurm.site import read_site
    from train.run_folder.folder import RunFolder

    if (job := slurm_job()) is None:
        raise UserError("`lehr slurm check` is called by the batch file of a job, and this is no Slurm job")
    logs = log_folder(RunFolder(run).logs, job)
    first_node = FirstNode(first_node_of_step(), is_this=is_first_node_of_step(), folder=logs)
    found = problems(read_site(JobFolder(run).site), folder=run, first_node=first_node)
    if not found:
        return
    for line in problem_lines(job.node or socket.gethostname(), found):
        print(line, file=sys.stderr)
    raise SystemExit(FAILED)
