"""`lehr ladder plan`: a ladder of small runs from one config, with its cost and the width of forecast that it buys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from launcher.commands.law.arguments import above_zero
from settings import UserError, parse

if TYPE_CHECKING:
    from launcher.ladder.ladder_file import Ladder
    from train.metrics.hardware import Peak


def plan_command(
    config: RunConfigArgument,
    target: Annotated[float, typer.Option("--target", callback=above_zero, help="Parameters of the target, all.")],
    tokens: Annotated[float, typer.Option("--tokens", callback=above_zero, help="Tokens of the target.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the ladder, a new one.")],
    overrides: OverridesArgument = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", callback=above_zero, help="FLOPs of all rungs; default: 5% of the target's."),
    ] = None,
    sizes: Annotated[int, typer.Option("--sizes", help="Sizes of the ladder.")] = 4,
    spacing: Annotated[float, typer.Option("--spacing", callback=above_zero, help="Each size over the next.")] = 2.0,
    length: Annotated[
        list[float] | None,
        typer.Option("--length", callback=above_zero, help="Lengths, times the target's tokens a parameter."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each rung.")] = 1,
    rule: Annotated[
        str, typer.Option("--rule", help="NAME or NAME:option=value,...: how lr and batch go with size.")
    ] = "power",
    tuned: Annotated[
        list[Path] | None,
        typer.Option("--tuned", metavar="SWEEP", help="Folders of `lehr sweep` at two rungs, to refit the rule from."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="The file of those sweeps' finished runs, if it lies elsewhere.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Say the hours on this GPU; default: this machine.")] = None,
    mfu: Annotated[float, typer.Option("--mfu", min=0.01, max=1.0, help="Share of the peak that runs reach.")] = 0.3,
) -> None:
    """Plan small runs of a config, from which the loss of a large one is forecast.

    The rungs are written to LADDER/ladder.yaml, where they may be edited. The lr and batch of the config are taken as
    tuned at its own size and length; `--tuned` takes them, and their powers, from sweeps.
    """
    from launcher.commands.law.arguments import name_and_options
    from launcher.ladder.cost import device_peak
    from launcher.ladder.design import Sizes, design_ladder
    from launcher.ladder.ladder_file import Ladder
    from launcher.ladder.rungs import check_base
    from launcher.ladder.tuning import tuned_runs
    from launcher.run.config import load_run_config
    from launcher.run.preflight import model_with_vocabulary
    from laws.size_rules.base import SIZE_RULES

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists; a ladder is planned in a new folder")
    run_config = load_run_config(config, overrides or [])
    check_base(run_config)
    peak = device_peak(run_config, gpu)
    model = model_with_vocabulary(run_config)
    named = name_and_options(rule, option="--rule")
    size_rule = parse(SIZE_RULES[named["name"]], named, source="--rule")
    start = None
    if tuned:
        found, of = tuned_runs(tuned, runs)
        size_rule, start = size_rule.refitted(found, of=of), found[-1]
    plan = design_ladder(
        run_config,
        model,
        size_rule,
        target=target,
        tokens=tokens,
        budget=budget,
        sizes=Sizes(sizes, spacing, tuple(length) if length else Sizes().lengths),
        seeds=seeds,
        tuned=start,
    )
    ladder = Ladder(output, plan)
    ladder.write(run_config)
    _print_plan(ladder, peak, mfu)
    _check_target(ladder)


def _check_target(ladder: Ladder) -> None:
    """Prints a warning if the target could not start: its model may not fit the layout of the config."""
    from launcher.run.preflight import check_config

    target = ladder.config_of(ladder.plan.target)
    try:
        check_config(target, world_size=target.parallel.ranks)
    except UserError as error:
        print(f"warning: the target cannot start: {error}", file=sys.stderr)
        print(f"edit the keys of the target in {ladder.plan_file}; no rung depends on them", file=sys.stderr)


def _print_plan(ladder: Ladder, peak: Peak, mfu: float) -> None:
    """Prints the rungs, their cost, and the width of the forecast that they buy."""
    from launcher.console import print_columns
    from launcher.ladder.width import expected_half_width
    from settings.durations import format_duration
    from train.metrics.console import format_count

    def time_of(flops: float) -> str:
        return "unknown" if peak.flops is None else format_duration(flops / (peak.flops * mfu))

    plan = ladder.plan
    rows = [["rung", "parameters", "layers x width", "tokens", "steps", "rows a step", "lr", "FLOPs", "time"]]
    for rung in (*plan.rungs, plan.target):
        keys = rung.keys
        rows.append(
            [
                rung.name if rung is not plan.target else f"target {rung.name}",
                f"{rung.parameters:,}",
                f"{keys['model.num_layers']} x {keys['model.hidden_size']}",
                format_count(rung.tokens),
                str(keys["train.steps"]),
                str(keys["train.global_batch_size"]),
                f"{keys['optim.lr']:.3g}",
                format_count(rung.flops),
                time_of(rung.flops),
            ]
        )
    print_columns(rows, numbers=range(1, 9))
    cost = sum(rung.flops for rung in plan.rungs) * plan.seeds
    largest = max(rung.flops for rung in plan.rungs)
    print(
        f"all {len(plan.rungs) * plan.seeds} runs of the ladder: {format_count(cost)} FLOPs, "
        f"{100 * cost / plan.target.flops:.2g}% of the target's; {time_of(cost)} on one device, at an mfu of "
        f"{mfu:.0%}: {peak.origin}"
    )
    print(f"the target costs {plan.target.flops / largest:.3g} times as much as the largest rung")
    print(
        f"forecast of the target: ± {100 * expected_half_width(ladder):.2g}% (90%), if the runs follow the joint law "
        "about as published ladders do"
    )
    print(f"ladder: {ladder.plan_file}; next: lehr ladder run {ladder.folder}")
