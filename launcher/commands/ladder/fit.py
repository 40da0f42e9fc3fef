"""`lehr ladder fit`: the law through the runs of a ladder, its cross-validation, and the forecast of the target."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.ladder.arguments import LadderArgument

if TYPE_CHECKING:
    from launcher.ladder.curves import LadderCurves
    from launcher.ladder.ladder_file import Ladder
    from laws.curve import EvaluationPoints
    from laws.fitting.fitted import Fit
    from laws.law import CurveLaw


def fit_command(
    ladder: LadderArgument,
    law: Annotated[str, typer.Option("--law", help="A law over sizes: NAME or NAME:option=value,...")] = "joint",
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="RUN", help="Fit this run folder too, such as an earlier run of another size."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Bootstrap repeats.")] = 200,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate/--no-cross-validate", help="Forecast each rung from the others.")
    ] = True,
) -> None:
    """Fit the law to the finished runs of a ladder, and forecast the target, in all and source by source.

    The fit is written to LADDER/fit.json, with a plot of the residuals.
    """
    from launcher.commands.law.arguments import curve_law
    from launcher.commands.law.plots import plot_fit
    from launcher.ladder.curves import ladder_curves
    from launcher.ladder.ladder_file import read_ladder
    from launcher.run.provenance import check_one_provenance
    from laws.fitting.fitted import fit_curves

    found, chosen = read_ladder(ladder), curve_law(law)
    curves = ladder_curves(found).with_runs(also or [])
    for note in curves.notes:
        print(f"note: {note}")
    chosen.check(curves.curves)
    named = [(curve.name, curve.provenance) for curve in curves.curves]
    check_one_provenance(named, sizes=chosen.spans_sizes, batches=chosen.spans_batches)
    fit = fit_curves(chosen, curves.curves, samples=samples)
    for note in fit.notes:
        print(f"note: {note}")
    if cross_validate:
        _print_cross_validation(chosen, curves)
    target = _target_end(found, fit)
    print(f"target, {found.plan.target.parameters:,} parameters, {found.plan.target.tokens:,} tokens:")
    print(f"  held-out loss {_forecast(fit, target)}")
    for source, own in curves.sources.items():
        print(f"  {source}: {_forecast(fit_curves(chosen, own, samples=samples), target)}")
    fit.save(found.fit)
    plot = found.fit.with_suffix(".png")
    plot_fit(fit, curves.curves, plot)
    print(f"fit file: {found.fit}, residual plot: {plot}; next: lehr ladder register {ladder}")


def _print_cross_validation(law: CurveLaw, curves: LadderCurves) -> None:
    """Prints how each rung is forecast by a fit to the others, and the mean error."""
    from launcher.console import print_columns
    from laws.fitting.cross_validation import LeftOut, leave_out_each

    rows = [["left out", "forecast", "90% interval", "fact", "error", "", "curve"]]
    errors, inside = [], 0
    for found in leave_out_each(law, curves.curves, curves.rungs):
        if not isinstance(found, LeftOut):
            print(f"note: {found}")
            continue
        errors.append(abs(found.error))
        inside += found.is_inside
        rows.append(
            [
                found.name,
                f"{found.forecast:.4f}",
                f"{found.low:.4f} to {found.high:.4f}",
                f"{found.fact:.4f}",
                f"{100 * found.error:+.2f}%",
                "inside" if found.is_inside else "outside",
                f"{100 * found.curve_error:.2f}%",
            ]
        )
    if not errors:
        return
    print("each rung, forecast from the others (the last column is the mean error of its whole curve):")
    print_columns(rows, numbers=(4, 6))
    print(f"mean error of last losses: {100 * sum(errors) / len(errors):.2f}%; {inside} of {len(errors)} are inside")


def _target_end(ladder: Ladder, fit: Fit) -> EvaluationPoints:
    """Returns the end of the target's planned curve."""
    from launcher.run.preflight import model_with_vocabulary
    from launcher.run.register import run_points
    from laws.curve import last_step

    config = ladder.config_of(ladder.plan.target)
    points = run_points(config, model_with_vocabulary(config), fit.law, most=2)
    return last_step(points.schedule, parameters=points.parameters, batch_tokens=points.batch_tokens)


def _forecast(fit: Fit, end: EvaluationPoints) -> str:
    (loss,), ((low,), (high,)) = fit.predict(end), fit.band(end)
    return f"{loss:.4f} (90%: {low:.4f} to {high:.4f}, ± {50 * math.log(high / low):.2g}%)"
