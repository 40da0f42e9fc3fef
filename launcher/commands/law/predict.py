"""`lehr law predict`: the loss curve of a run to come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import BatchOption, FitArgument, ParametersOption
from launcher.run.fit_scope import schedule_warnings
from launcher.run.planned_schedule import read_planned_schedule
from laws.curve import every_step, last_step
from laws.fitting.fitted import load_fit
from settings import UserError


def predict_command(
    fit: FitArgument,
    run: Annotated[
        list[str], typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="The run to come, as for `lehr train`.")
    ],
    parameters: ParametersOption = None,
    batch_tokens: BatchOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the predicted curve as PNG.")] = None,
) -> None:
    """Predict the loss curve of a run to come, and its final loss with an interval.

    The run is a config with overrides, as for `lehr train`; or keys alone: schedule=cosine train.steps=1000. Without a
    config, optim.lr is by default the peak of the fitted curves.
    """
    console = Console()
    law_fit = load_fit(fit)
    if plot is not None:
        from launcher.commands.figures import check_picture_path  # matplotlib is slow to import

        check_picture_path(plot, option="--plot")
    for needed, option, value in (
        (law_fit.law.spans_sizes, "--parameters", parameters),
        (law_fit.law.spans_batches, "--batch-tokens", batch_tokens),
    ):
        if needed and value is None:
            raise UserError(
                f"the fit is of the {law_fit.law.name} law, whose forecasts need {option} of the run to come"
            )
    schedule = read_planned_schedule(run, law_fit)
    for warning in schedule_warnings(law_fit, schedule):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    for note in law_fit.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    points = every_step(schedule, most=11, parameters=parameters, batch_tokens=batch_tokens)
    low, high = law_fit.band(points)
    table = Table("step", "lr", "loss", "90% low", "90% high")
    for step, value, least, most in zip(points.steps, law_fit.predict(points), low, high, strict=True):
        table.add_row(str(step), f"{schedule.lr[step - 1]:.3g}", f"{value:.4f}", f"{least:.4f}", f"{most:.4f}")
    console.print(table)
    end = last_step(schedule, parameters=parameters, batch_tokens=batch_tokens)
    least, most = (float(bound[0]) for bound in law_fit.band(end))
    console.print(f"final loss {law_fit.predict(end)[0]:.4f} (90%: {least:.4f} to {most:.4f})", highlight=False)
    if plot is not None:
        from launcher.commands.law.plots import plot_prediction

        plot_prediction(law_fit, every_step(schedule, parameters=parameters, batch_tokens=batch_tokens), plot)
        console.print(f"plot: {plot}", highlight=False, markup=False, soft_wrap=True)
