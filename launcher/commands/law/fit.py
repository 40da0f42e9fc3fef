"""`lehr law fit`: fits a law of the loss to the curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import above_zero, curve_law
from launcher.commands.outputs import check_output
from launcher.run.provenance import check_one_provenance, run_provenance
from laws.curve import LossCurve
from laws.fitting.fitted import Fit, fit_curves
from laws.law import DEFAULT_LAW, CurveLaw
from laws.reading.curves import read_curve
from laws.reading.reading import Reading
from laws.reading.run_folder import DEFAULT_LOSS
from settings import UserError


def fit_command(
    curves: Annotated[list[Path], typer.Argument(metavar="RUN|CSV...", help="Run folders, or CSV: step, lr, loss.")],
    law: Annotated[str, typer.Option("--law", help="NAME or NAME:option=value,...")] = DEFAULT_LAW,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the fit file (JSON).")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The residual plot (PNG); default: next to FIT.")] = None,
    loss: Annotated[str, typer.Option("--loss", help="The loss in metrics.jsonl.")] = DEFAULT_LOSS,
    warmup_steps: Annotated[
        int | None, typer.Option("--warmup-steps", min=0, help="The warm-up, if it cannot be read from the lr.")
    ] = None,
    last_step: Annotated[int | None, typer.Option("--last-step", min=1, help="Ignore later steps.")] = None,
    parameters: Annotated[
        list[float] | None, typer.Option("--parameters", callback=above_zero, help="The size of each curve's model.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Bootstrap repeats.")] = 200,
) -> None:
    """Fit a law to loss curves: parameters, intervals, residuals."""
    console = Console()
    chosen = curve_law(law)
    plot = _check_outputs(output, plot)
    readings = [read_curve(path, loss=loss, warmup_steps=warmup_steps, last_step=last_step) for path in curves]
    readings = _with_sizes(readings, parameters or [])
    known = _with_provenance(readings, curves, chosen, loss=loss)
    for reading in readings:
        for note in reading.notes:
            console.print(f"note: {note}", highlight=False, markup=False)
    fit = fit_curves(chosen, known, samples=samples)
    console.print(_parameter_table(fit))
    console.print(_curve_table(fit))
    for note in fit.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        fit.save(output)
        console.print(f"fit file: {output}", highlight=False, markup=False, soft_wrap=True)
    if plot is not None:
        from launcher.commands.law.plots import plot_fit

        plot_fit(fit, [reading.curve for reading in readings], plot)
        console.print(f"residual plot: {plot}", highlight=False, markup=False, soft_wrap=True)


def _check_outputs(output: Path | None, plot: Path | None) -> Path | None:
    """Returns the path of the plot. Raises UserError if a file cannot be written where the options say."""
    if output is not None:
        if output.is_dir() or not output.parent.is_dir():
            raise UserError(f"--output {output} must be a file in a folder that exists, such as fit.json")
        check_output(output, option="--output")
        plot = output.with_suffix(".png") if plot is None else plot
        if plot == output:
            raise UserError(f"--output {output} is also where the residual plot goes; call it {output.stem}.json")
    if plot is not None:
        from launcher.commands.figures import check_picture_path  # matplotlib is slow to import

        check_picture_path(plot, option="--plot")
    return plot


def _with_sizes(readings: list[Reading], parameters: list[float]) -> list[Reading]:
    """Returns the readings with the sizes of their models; one size holds for all."""
    if not parameters:
        return readings
    if len(parameters) not in (1, len(readings)):
        raise UserError(f"--parameters is given {len(parameters)} times for {len(readings)} curves: once for each")
    sizes = parameters * len(readings) if len(parameters) == 1 else parameters
    return [reading.of_size(size) for reading, size in zip(readings, sizes, strict=True)]


def _with_provenance(
    readings: Sequence[Reading], paths: Sequence[Path], law: CurveLaw, *, loss: str
) -> list[LossCurve]:
    """Returns the curves with the provenance of their runs. Raises UserError if no one law holds for all of them."""
    provenances = [run_provenance(path, loss=loss) for path in paths]
    named = list(zip(map(str, paths), provenances, strict=True))
    check_one_provenance(named, sizes=law.spans_sizes, batches=law.spans_batches)
    return [replace(reading.curve, provenance=found) for reading, found in zip(readings, provenances, strict=True)]


def _parameter_table(fit: Fit) -> Table:
    table = Table("parameter", "value", "90% interval", "meaning", title=f"{fit.law.name} law")
    meanings = {c.name: c.meaning for c in fit.law.coefficients()} | {s.name: s.meaning for s in fit.law.shapes()}
    intervals = fit.parameter_intervals()
    for name, value in fit.values.items():
        low, high = intervals.get(name, (None, None))
        interval = "" if low is None else f"{low:.4g} to {high:.4g}"
        table.add_row(name, f"{value:.5g}", interval, meanings[name])
    return table


def _curve_table(fit: Fit) -> Table:
    table = Table("curve", "losses", "last step", "peak lr", "last lr", "mean error")
    for curve in fit.curves:
        lrs = (f"{curve.peak_lr:.3g}", f"{curve.last_lr:.3g}")
        table.add_row(curve.name, str(curve.losses), str(curve.steps), *lrs, f"{100 * curve.mean_error:.3f}%")
    return table
