"""`lehr plan`: the layouts of a run on a cluster, before a GPU is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from settings import UserError

if TYPE_CHECKING:
    from launcher.plan.report import Report
    from launcher.run.config import RunConfig


def plan(
    config: RunConfigArgument,
    overrides: OverridesArgument = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="GPUs of the run; by default those of the config's layout.")
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", help="Kind of GPU, such as h100, or cpu; or the path of a machine file of your own.")
    ] = "h100",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A key whose value stays as in the config, such as parallel.tensor."),
    ] = None,
    headroom: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of a GPU's memory that the estimate must leave free.")
    ] = 0.1,
    hours: Annotated[float | None, typer.Option(help="Budget of time: sets train.steps.")] = None,
    flops: Annotated[float | None, typer.Option(help="Budget of model FLOPs: sets train.steps.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Budget of tokens: sets train.steps.")] = None,
    law: Annotated[bool, typer.Option("--law", help="Take the lr and the batch of Step Law, for the tokens.")] = False,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="A fit file of `lehr law fit`, or a register of `lehr ladder register`: forecasts the loss, and finds "
            "a schedule."
        ),
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of a GPU hour.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Layouts to show.")] = 10,
    json_form: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the config of the first layout to this file.")
    ] = None,
) -> None:
    """Rank the layouts of a run on a number of GPUs: memory, time, MFU, cost, and why the first one is the first.

    It starts no process and needs no GPU. -o writes a config that `lehr train` takes.
    """
    from launcher.commands.outputs import check_output
    from launcher.plan.make_report import Budget, make_report
    from launcher.run.config import load_run_config
    from parallel.planning.machine_file import load_machine

    if output is not None:
        check_output(output, option="--output")
        if output.exists():
            raise UserError(f"--output {output} exists; give another path, or remove it")
    run_config = load_run_config(config, overrides or [])
    report = make_report(
        run_config,
        load_machine(gpu),
        gpus=run_config.parallel.ranks if gpus is None else gpus,
        kept=tuple(keep or ()),
        headroom=headroom,
        budget=Budget(hours=hours, flops=flops, tokens=tokens),
        by_law=law,
        fit=fit,
        price_per_gpu_hour=price,
    )
    if json_form:
        _print_json(report, top)
    else:
        _print_report(report, top)
    if output is not None:
        _write_config(report, output, quiet=json_form)


def _print_report(report: Report, top: int) -> None:
    from launcher.console import print_columns
    from launcher.plan.report import details, heading, law_lines, layout_table, own_layout

    print("\n".join(heading(report)))
    print("\nthe fastest for each tensor, pipeline and ZeRO:")
    rows = layout_table(report, top)
    print_columns(rows, numbers=range(len(rows[0])))
    print(own_layout(report))
    print("\nof the first:")
    print("\n".join(details(report)))
    print("\nby law:")
    print("\n".join(law_lines(report)))


def _print_json(report: Report, top: int) -> None:
    import json

    from launcher.plan.report import plain_report

    print(json.dumps(plain_report(report, top), indent=1, ensure_ascii=False))


def _write_config(report: Report, path: Path, *, quiet: bool) -> None:
    from launcher.plan.make_report import planned_config
    from launcher.plan.report import step_text
    from settings import to_yaml
    from settings.files import output_of_user, write_text

    written: RunConfig = planned_config(report)
    best, request = report.plan.best, report.request
    head = (
        f"# Planned by `lehr plan` for {request.gpus} x {request.machine.name}: {step_text(best.seconds)} a step, "
        f"an MFU of {best.mfu:.1%}\n"
    )
    with output_of_user(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, head + to_yaml(written))
    if not quiet:
        print(f"\nwritten: {path}; train it with: lehr train {path}")
