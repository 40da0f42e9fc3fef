"""`lehr law design`: which runs to add to a fit so that the interval of a forecast becomes shortest."""

from __future__ import annotations

import itertools
import math
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import FitArgument, above_zero, check_batch
from laws.fitting.design import best_additions, candidate_run, half_width
from laws.fitting.fitted import load_fit


def design_command(
    fit: FitArgument,
    target: Annotated[
        float, typer.Option("--target", callback=above_zero, help="The parameters of the run to forecast.")
    ],
    tokens: Annotated[float, typer.Option("--tokens", callback=above_zero, help="The tokens of the run to forecast.")],
    size: Annotated[
        list[float] | None,
        typer.Option("--size", callback=above_zero, help="Parameters of candidates; default: the fitted sizes."),
    ] = None,
    tokens_per_parameter: Annotated[
        list[float] | None,
        typer.Option("--tokens-per-parameter", callback=above_zero, help="Lengths of candidates; default 10 to 200."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", callback=above_zero, help="The most FLOPs that all added runs may cost."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="The most runs to add.")] = 2,
    batch_tokens: Annotated[
        float | None,
        typer.Option(
            "--batch-tokens", callback=above_zero, help="Tokens a step; default: as the fitted runs, by size."
        ),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many of the best choices to print.")] = 10,
) -> None:
    """Choose the runs to add to a fit that shorten the interval of a forecast most, within a budget."""
    console = Console()
    check_batch(batch_tokens, tokens)
    law_fit = load_fit(fit)
    goal = candidate_run(law_fit, parameters=target, tokens=tokens, batch_tokens=batch_tokens)
    sizes = size or sorted({curve.parameters for curve in law_fit.curves if curve.parameters is not None})
    lengths = tokens_per_parameter or (10.0, 20.0, 40.0, 100.0, 200.0)
    candidates = [
        candidate_run(law_fit, parameters=each, tokens=each * length, batch_tokens=batch_tokens)
        for each, length in itertools.product(sizes, lengths)
    ]
    for note in law_fit.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    loss = float(law_fit.predict(goal.end)[0])
    before = half_width(law_fit, goal)
    console.print(f"forecast {loss:.4f} ± {100 * before:.2f}% (90%) by the fit as it is", highlight=False)
    table = Table("runs to add: parameters x tokens", "FLOPs", "then ±", "shorter by")
    most_flops = math.inf if budget is None else budget
    for addition in best_additions(law_fit, goal, candidates, most=runs, budget_flops=most_flops)[:rows]:
        names = ", ".join(f"{run.parameters:.3g} x {run.tokens:.3g}" for run in addition.runs)
        gain = f"{100 * (1 - addition.half_width / before):.0f}%"
        table.add_row(names, f"{addition.flops:.3g}", f"{100 * addition.half_width:.2f}%", gain)
    console.print(table)
