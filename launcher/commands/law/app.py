"""`lehr law`: the table of its commands."""

from __future__ import annotations

import typer

from launcher.commands.law.design import design_command
from launcher.commands.law.fit import fit_command
from launcher.commands.law.predict import predict_command
from launcher.commands.law.scaling import batch_command, compute_command, hyperparameters_command
from launcher.commands.law.schedule import schedule_command
from launcher.commands.law.width import width_command

law_app = typer.Typer(no_args_is_help=True, help="Fit loss laws to runs, forecast, choose schedules and sizes.")

law_app.command("fit")(fit_command)
law_app.command("predict")(predict_command)
law_app.command("schedule")(schedule_command)
law_app.command("design")(design_command)
law_app.command("compute")(compute_command)
law_app.command("hyperparameters")(hyperparameters_command)
law_app.command("batch")(batch_command)
law_app.command("width")(width_command)
