"""`lehr ladder`: the table of its commands."""

from __future__ import annotations

import typer

from launcher.commands.ladder.fit import fit_command
from launcher.commands.ladder.plan import plan_command
from launcher.commands.ladder.register import register_command
from launcher.commands.ladder.run import run_command

ladder_app = typer.Typer(no_args_is_help=True, help="Forecast a large run from small ones, before it is trained.")

ladder_app.command("plan")(plan_command)
ladder_app.command("run")(run_command)
ladder_app.command("fit")(fit_command)
ladder_app.command("register")(register_command)
