"""`lehr law compute`, `hyperparameters` and `batch`: model sizes and settings before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import above_zero, check_batch, name_and_options
from laws.reading.run_folder import DEFAULT_LOSS
from laws.scaling.critical_batch import batch_over_loss, critical_batch, read_batch_run
from laws.scaling.fit import fit_runs, read_runs
from laws.scaling.hyperparameters import singular_value_scale, step_law, transfer_width
from laws.scaling.laws import COMPUTE_LAWS
from laws.scaling.optimum import compute_optimal
from settings import UserError, parse


def compute_command(
    runs: Annotated[
        Path,
        typer.Argument(
            metavar="CSV", help="Columns: parameters, tokens, loss (batch_tokens, unique_tokens); a run a row."
        ),
    ],
    law: Annotated[
        str,
        typer.Option("--law", help="NAME of a compute law, such as average_parameters; an unknown name lists them."),
    ] = "chinchilla",
    flops: Annotated[
        list[float] | None, typer.Option("--flops", callback=above_zero, help="Budgets to divide into N and D.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option("--parameters", callback=above_zero, help="N of a run to predict; needs --tokens.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", callback=above_zero, help="D of a run to predict; needs --parameters.")
    ] = None,
    batch_tokens: Annotated[
        float | None,
        typer.Option(
            "--batch-tokens", callback=above_zero, help="Tokens a step of the runs to advise on, for kaplan_batch."
        ),
    ] = None,
    unique_tokens: Annotated[
        float | None,
        typer.Option("--unique-tokens", callback=above_zero, help="The unique tokens there are, for repetition."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Bootstrap repeats.")] = 200,
) -> None:
    """Fit a law of the final loss over model sizes N and tokens D; divide compute budgets; predict."""
    console = Console()
    check_batch(batch_tokens, tokens)
    plain = name_and_options(law, option="--law")
    law_fit = fit_runs(parse(COMPUTE_LAWS[plain["name"]], plain, source="--law"), read_runs(runs), samples=samples)
    table = Table("parameter", "value", "90% interval", title=f"{law_fit.law.name} law")
    intervals = law_fit.parameter_intervals()
    for name, value in law_fit.values.items():
        low_high = "{:.4g} to {:.4g}".format(*intervals[name]) if name in intervals else ""
        table.add_row(name, f"{value:.5g}", low_high)
    console.print(table)
    if flops:
        budgets = Table("FLOPs", "parameters", "tokens", "tokens a parameter", "predicted loss")
        for budget in flops:
            best = compute_optimal(
                law_fit.law, law_fit.values, budget, batch_tokens=batch_tokens, unique_tokens=unique_tokens
            )
            ratio = f"{best.tokens / best.parameters:.1f}"
            budgets.add_row(f"{budget:.3g}", f"{best.parameters:.3g}", f"{best.tokens:.3g}", ratio, f"{best.loss:.4f}")
        console.print(budgets)
    if (parameters is None) != (tokens is None):
        raise UserError("a prediction needs both --parameters and --tokens")
    if parameters is not None and tokens is not None:
        for warning in law_fit.warnings(parameters=parameters, tokens=tokens):
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        loss, low, high = law_fit.predict(
            parameters=parameters, tokens=tokens, batch_tokens=batch_tokens, unique_tokens=unique_tokens
        )
        console.print(f"final loss {loss:.4f} (90%: {low:.4f} to {high:.4f})", highlight=False)


def hyperparameters_command(
    parameters: Annotated[
        float | None, typer.Option("--parameters", callback=above_zero, help="N, without embeddings.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", callback=above_zero, help="D, the tokens of the run.")
    ] = None,
    seq_length: Annotated[int, typer.Option("--seq-length", min=1)] = 2048,
    lr: Annotated[
        float | None, typer.Option("--lr", callback=above_zero, help="The lr of matrices, tuned at --tuned-width.")
    ] = None,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", callback=above_zero, help="Tuned at --tuned-width as well.")
    ] = 0.1,
    tuned_width: Annotated[int | None, typer.Option("--tuned-width", min=1)] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="The width of the model to come.")] = None,
) -> None:
    """Give the lr and batch of Step Law; transfer lr and weight decay to another width."""
    console = Console()
    missing = [name for name, value in (("--parameters", parameters), ("--tokens", tokens)) if value is None]
    if parameters is not None and tokens is not None:
        advice = step_law(parameters=parameters, tokens=tokens)
        for warning in advice.warnings:
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        table = Table("Step Law (arXiv 2503.04715)", "value")
        table.add_row("peak lr", f"{advice.lr:.3g}")
        table.add_row("batch, tokens", f"{advice.batch_tokens:,.0f}")
        table.add_row(f"batch, rows of {seq_length}", str(advice.rows(seq_length)))
        console.print(table)
    elif len(missing) == 1:
        raise UserError(f"Step Law needs --parameters and --tokens; {missing[0]} is missing")
    if width is not None and tuned_width is not None and lr is not None:
        target = transfer_width(lr=lr, weight_decay=weight_decay, tuned_width=tuned_width, width=width)
        table = Table("width transfer (arXiv 2510.15262)", f"width {tuned_width}", f"width {width}")
        table.add_row("lr of matrices", f"{lr:.3g}", f"{target.matrix_lr:.3g}")
        table.add_row("weight decay of matrices", f"{weight_decay:.3g}", f"{target.matrix_weight_decay:.3g}")
        table.add_row("lr of vectors", f"{lr:.3g}", f"{target.vector_lr:.3g}")
        table.add_row("weight decay of vectors", "0", "0")
        before = singular_value_scale(lr=lr, weight_decay=weight_decay, width=tuned_width)
        after = singular_value_scale(lr=target.matrix_lr, weight_decay=target.matrix_weight_decay, width=width)
        table.add_row("sqrt(lr / decay) width^0.75", f"{before:.3g}", f"{after:.3g}")
        console.print(table)
    elif not (width is None and tuned_width is None and lr is None):
        raise UserError("a transfer over width needs --lr, --tuned-width and --width")
    elif len(missing) == 2:
        raise UserError("no option is given: give --parameters and --tokens, or --lr, --tuned-width and --width")


def batch_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, at several batch sizes.")],
    loss: Annotated[list[float], typer.Option("--loss", callback=above_zero, help="Losses that the runs reach.")],
    loss_key: Annotated[str, typer.Option("--loss-key", help="The loss in metrics.jsonl.")] = DEFAULT_LOSS,
) -> None:
    """Estimate the critical batch size from runs of one model at several batch sizes."""
    console = Console()
    batch_runs = [read_batch_run(path, loss=loss_key) for path in runs]
    points = [critical_batch(batch_runs, target) for target in loss]
    table = Table("loss", "least steps", "least tokens", "critical batch, tokens", "90% interval")
    for point in points:
        low_high = "{:.3g} to {:.3g}".format(*point.interval)
        row = (f"{point.least_steps:.4g}", f"{point.least_tokens:.4g}", f"{point.batch_tokens:.4g}")
        table.add_row(f"{point.loss:.4g}", *row, low_high)
    console.print(table)
    if len(points) > 1:
        scale, power = batch_over_loss(points)
        console.print(f"critical batch = {scale:.4g} / loss^(1/{power:.3f}) tokens", highlight=False)
