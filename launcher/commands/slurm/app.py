"""`lehr slurm`: the table of its commands."""

from __future__ import annotations

import typer

from launcher.commands.slurm.cancel import cancel_command
from launcher.commands.slurm.check import check_command
from launcher.commands.slurm.decide import decide_command
from launcher.commands.slurm.logs import logs_command
from launcher.commands.slurm.run import run_command
from launcher.commands.slurm.status import status_command
from launcher.commands.slurm.submit import submit_command
from launcher.commands.slurm.torchrun import torchrun_command

slurm_app = typer.Typer(no_args_is_help=True, help="Submit runs to Slurm, watch, read and cancel them.")

slurm_app.command("submit")(submit_command)
slurm_app.command("run")(run_command)
slurm_app.command("status")(status_command)
slurm_app.command("logs")(logs_command)
slurm_app.command("cancel")(cancel_command)
slurm_app.command("decide")(decide_command)
slurm_app.command("check")(check_command)
slurm_app.command("torchrun")(torchrun_command)
