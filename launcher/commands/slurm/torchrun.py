"""`lehr slurm torchrun`: starts the ranks of one node by torchrun."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from launcher.commands.arguments import RunFolderArgument
from launcher.processes.environment import place_of_node, slurm_job
from settings import UserError


def torchrun_command(run: RunFolderArgument) -> None:
    """Start the ranks of a job on this node by torchrun, and end with their exit code.

    The batch file of `lehr slurm submit` calls it on every node, if the site file says `launch: torchrun`.
    """
    from launcher.slurm.job_folder import JobFolder
    from launcher.slurm.site import read_site
    from launcher.slurm.torchrun_node import run_node

    if (job := slurm_job()) is None:
        raise UserError("`lehr slurm torchrun` is called by the batch file of a job, and this is no Slurm job")
    folder, node = JobFolder(run), job.node or socket.gethostname()
    train = [str(Path(sys.executable).with_name("lehr")), "train", str(folder.config)]
    ranks = read_site(folder.site).ranks_per_node
    raise SystemExit(run_node(train, place_of_node(), ranks_per_node=ranks, node=node))
