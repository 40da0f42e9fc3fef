"""`lehr law`: fit the laws of the loss, predict, choose schedules, sizes and hyperparameters."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import curve_law, read_constraints
from launcher.exit_codes import user_errors
from launcher.run.fit_scope import schedule_warnings
from launcher.run.planned_schedule import read_plan
from launcher.run.provenance import check_one_provenance, run_provenance
from laws.curve import every_step, last_step
from laws.fitting.fitted import Fit, fit_curves, load_fit
from laws.law import DEFAULT_LAW
from laws.reading.curves import read_curve
from laws.reading.reading import Reading
from laws.reading.run_folder import DEFAULT_LOSS
from laws.schedule_search.search import search
from schedules.table import write_table
from settings import UserError
from settings.files import write_text

law_app = typer.Typer(no_args_is_help=True, help="Fit loss laws to runs, forecast, choose schedules and sizes.")

FitFile = Annotated[Path, typer.Argument(metavar="FIT", help="A fit file of `lehr law fit -o`.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps of the run to come.")]
Size = Annotated[float | None, typer.Option("--parameters", help="Of the model, for a law over model sizes.")]


@law_app.command("fit")
@user_errors
def fit_command(
    curves: Annotated[list[Path], typer.Argument(metavar="RUN|CSV...", help="Run folders, or CSV: step, lr, loss.")],
    law: Annotated[str, typer.Option("--law", help="NAME or NAME:option=value,...")] = DEFAULT_LAW,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the fit file (JSON).")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The residual plot (PNG); default: beside FIT.")] = None,
    loss: Annotated[str, typer.Option("--loss", help="The loss in metrics.jsonl.")] = DEFAULT_LOSS,
    warmup_steps: Annotated[int | None, typer.Option("--warmup-steps", min=0, help="Where it cannot be told.")] = None,
    last_step: Annotated[int | None, typer.Option("--last-step", min=1, help="Leave out what comes later.")] = None,
    parameters: Annotated[list[float] | None, typer.Option("--parameters", help="Of each curve's model.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Bootstrap repeats.")] = 200,
) -> None:
    """Fit a law to loss curves: parameters, intervals, residuals."""
    console = Console()
    if output is not None:
        if output.is_dir() or not output.parent.is_dir():
            raise UserError(f"--output {output} must be a file in a folder that is there, such as fit.json")
        plot = output.with_suffix(".png") if plot is None else plot
        if plot == output:
            raise UserError(f"--output {output} is also where the residual plot goes; call it {output.stem}.json")
    if plot is not None:
        from launcher.commands.figures import check_picture_path  # matplotlib is slow to import

        check_picture_path(plot, option="--plot")
    readings = [read_curve(path, loss=loss, warmup_steps=warmup_steps, last_step=last_step) for path in curves]
    readings = _with_sizes(readings, parameters or [])
    chosen = curve_law(law)
    provenances = [run_provenance(path, loss=loss) for path in curves]
    check_one_provenance(list(zip(map(str, curves), provenances, strict=True)), sizes=chosen.spans_sizes)
    for reading in readings:
        for note in reading.notes:
            console.print(f"note: {note}", highlight=False, markup=False)
    known = [replace(reading.curve, provenance=found) for reading, found in zip(readings, provenances, strict=True)]
    found = fit_curves(chosen, known, samples=samples)
    console.print(_parameter_table(found))
    console.print(_curve_table(found))
    if output is not None:
        found.save(output)
        console.print(f"fit file: {output}", highlight=False, markup=False, soft_wrap=True)
    if plot is not None:
        from launcher.commands.law.plots import plot_fit

        plot_fit(found, [reading.curve for reading in readings], plot)
        console.print(f"residual plot: {plot}", highlight=False, markup=False, soft_wrap=True)


@law_app.command("predict")
@user_errors
def predict_command(
    fit: FitFile,
    plan: Annotated[
        list[str], typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="Of the run to come, as for `lehr train`.")
    ],
    parameters: Size = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the predicted curve as PNG.")] = None,
) -> None:
    """The loss curve of a run to come, and its final loss with an interval.

    The run is a config with overrides, as for `lehr train`; or keys alone: schedule=cosine train.steps=1000. Then
    optim.lr is the peak of the fitted curves unless it is given.
    """
    console = Console()
    found = load_fit(fit)
    if plot is not None:
        from launcher.commands.figures import check_picture_path  # matplotlib is slow to import

        check_picture_path(plot, option="--plot")
    planned = read_plan(plan, found)
    for warning in schedule_warnings(found, planned):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    places = every_step(planned, most=11, parameters=parameters)
    low, high = found.band(places)
    table = Table("step", "lr", "loss", "90% low", "90% high")
    for step, value, least, most in zip(places.steps, found.predict(places), low, high, strict=True):
        table.add_row(str(step), f"{planned.lr[step - 1]:.3g}", f"{value:.4f}", f"{least:.4f}", f"{most:.4f}")
    console.print(table)
    end = last_step(planned, parameters=parameters)
    least, most = (float(bound[0]) for bound in found.band(end))
    console.print(f"final loss {found.predict(end)[0]:.4f} (90%: {least:.4f} to {most:.4f})", highlight=False)
    if plot is not None:
        from launcher.commands.law.plots import plot_prediction

        plot_prediction(found, every_step(planned, parameters=parameters), plot)
        console.print(f"plot: {plot}", highlight=False, markup=False, soft_wrap=True)


@law_app.command("schedule")
@user_errors
def schedule_command(
    fit: FitFile,
    steps: Steps,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            help="key=value, repeatable: peak_lr, warmup_steps, min_lr, max_decay_share, families (a,b), free_form.",
        ),
    ] = None,
    parameters: Size = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for config.yaml, schedule.json and the plot.")
    ] = None,
) -> None:
    """The best schedule by the law: of every family, and of free form."""
    console = Console()
    found = load_fit(fit)
    constraints = read_constraints(found, constraint or [], parameters=parameters)
    if output is None and constraints.families == ():
        raise UserError("the best of free form alone is a table of lr: say with -o FOLDER where to write it")
    candidates = search(found, steps=steps, constraints=constraints)
    table = Table("schedule", "predicted final loss", "90% interval", "settings")
    for candidate in candidates:
        low, high = (float(bound[0]) for bound in found.band(last_step(candidate.schedule, parameters=parameters)))
        section = {} if candidate.section is None else dict(candidate.section)
        shown = ", ".join(f"{key}={value}" for key, value in section.items() if key != "name") or "a table"
        table.add_row(candidate.name, f"{candidate.loss:.4f}", f"{low:.4f} to {high:.4f}", shown)
    console.print(table)
    best = candidates[0]
    if output is None and best.section is None:
        console.print(f"the best, {best.name}, is a table of lr: -o FOLDER writes it", highlight=False)
        best = next(candidate for candidate in candidates if candidate.section is not None)
    fragment = {"train": {"steps": steps}, **best.config(None if output is None else output / "schedule.json")}
    whole = yaml.safe_dump(fragment, sort_keys=False)
    if output is not None:
        from launcher.commands.law.plots import plot_candidates

        try:
            output.mkdir(parents=True, exist_ok=True)
            write_table(best.schedule.lr, output / "schedule.json")
            plot_candidates(found, candidates, output / "schedule.png", parameters=parameters)
            write_text(output / "config.yaml", whole)  # last: the table that it may name is there
        except OSError as error:
            raise UserError(f"--output {output} cannot be written: {error}") from None
    console.print(f"{best.name}, as a config:", highlight=False)
    print(whole, end="")
    # A section in one piece takes the place of the config's own, whatever that one holds.
    in_one_line = yaml.safe_dump(fragment["schedule"], default_flow_style=True, sort_keys=False, width=10**6).strip()
    overrides = (f"train.steps={steps}", f"optim.lr={fragment['optim']['lr']!r}", f"schedule={in_one_line}")
    print("and as a run:\nlehr train CONFIG " + shlex.join(overrides))
    if output is not None:
        console.print(f"written to {output}: config.yaml, schedule.json, schedule.png", highlight=False, soft_wrap=True)


def _with_sizes(readings: list[Reading], parameters: list[float]) -> list[Reading]:
    if not parameters:
        return readings
    if len(parameters) not in (1, len(readings)):
        raise UserError(f"--parameters is given {len(parameters)} times for {len(readings)} curves: once for each")
    sizes = parameters * len(readings) if len(parameters) == 1 else parameters
    return [reading.of_size(size) for reading, size in zip(readings, sizes, strict=True)]


def _parameter_table(fit: Fit) -> Table:
    table = Table("parameter", "value", "90% interval", "meaning", title=f"{fit.law.name} law")
    meanings = {c.name: c.meaning for c in fit.law.coefficients()} | {s.name: s.meaning for s in fit.law.shapes()}
    intervals = fit.parameter_intervals()
    for name, value in fit.values.items():
        low, high = intervals.get(name, (None, None))
        shown = "" if low is None else f"{low:.4g} to {high:.4g}"
        table.add_row(name, f"{value:.5g}", shown, meanings[name])
    return table


def _curve_table(fit: Fit) -> Table:
    table = Table("curve", "losses", "last step", "peak lr", "last lr", "mean error")
    for curve in fit.curves:
        lrs = (f"{curve.peak_lr:.3g}", f"{curve.last_lr:.3g}")
        table.add_row(curve.name, str(curve.losses), str(curve.steps), *lrs, f"{100 * curve.mean_error:.3f}%")
    return table


def _add_advice() -> None:
    """The commands on sizes and hyperparameters stand in a file of their own."""
    from launcher.commands.law.scaling import batch_command, compute_command, hyperparameters_command
    from launcher.commands.law.width import width_command

    law_app.command("compute")(compute_command)
    law_app.command("hyperparameters")(hyperparameters_command)
    law_app.command("batch")(batch_command)
    law_app.command("width")(width_command)


_add_advice()
