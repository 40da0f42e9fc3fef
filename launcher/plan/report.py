"""The report of a plan: lines for people, and the same as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher.plan.law_advice import CHINCHILLA_TOKENS_PER_PARAMETER, FitAdvice, LrAndBatch
from launcher.plan.request import Request
from launcher.run.estimate import format_bytes
from parallel.planning.layout_plan import Plan, PlannedLayout, best_of_each
from parallel.planning.reasons import what_would_change, why_first
from parallel.planning.traffic import sent_in_a_step
from settings import UserError
from settings.durations import format_duration
from settings.overrides import section_override
from train.metrics.console import format_count

COLUMNS = ("tensor", "pipeline", "virtual", "data", "zero", "sequence", "micro-batch", "recompute")
JOULES_PER_MWH = 3.6e9


@dataclass(frozen=True)
class RunCost:
    """The time, the energy and the price of a whole run in one layout."""

    seconds: float
    gpu_hours: float
    energy_mwh: float
    price: float | None


@dataclass(frozen=True)
class Report:
    """A plan with all that is said of it."""

    request: Request
    plan: Plan
    price_per_gpu_hour: float | None
    lr_and_batch: LrAndBatch
    fit: FitAdvice | None

    def cost(self, layout: PlannedLayout) -> RunCost:
        """Returns what the run takes, without evaluations, checkpoints and faults."""
        seconds = layout.seconds * self.request.config.train.steps
        gpu_hours = seconds * self.request.gpus / 3600
        watts = self.request.machine.watts.value
        price = None if self.price_per_gpu_hour is None else gpu_hours * self.price_per_gpu_hour
        return RunCost(seconds, gpu_hours, seconds * self.request.gpus * watts / JOULES_PER_MWH, price)


def heading(report: Report) -> list[str]:
    """Returns the lines about the run, the machine, and how many layouts there are."""
    request, plan = report.request, report.plan
    train, machine = request.config.train, request.machine
    refused = sum(one.count for one in plan.refused.values())
    efficiency = machine.efficiency
    lines = [
        f"model: {format_count(request.parameters)} parameters, {format_count(request.flops_per_token)} FLOPs a token",
        f"run: {train.steps:,} steps of {train.global_batch_size:,} rows of {train.seq_length:,} tokens: "
        f"{format_count(request.tokens)} tokens, {request.tokens / request.parameters:.3g} a parameter",
        f"machine: {request.gpus:,} x {machine.name}; it reaches {efficiency.products:.0%} of its peak in matrix "
        f"products, {efficiency.attention:.0%} in attention, and {efficiency.memory:.0%}, {efficiency.inside:.0%}, "
        f"{efficiency.between:.0%} of its bandwidths: of memory, inside a node, between nodes ({efficiency.source})",
        f"layouts: {len(plan.fitting):,} fit into {format_bytes(plan.limit_bytes)} ({1 - plan.headroom:.0%} of the "
        f"memory), {len(plan.too_large):,} do not, {refused:,} cannot be:",
    ]
    return [*lines, *(f"  {one.count:,}, such as: {one.example}" for one in plan.refused.values())]


def layout_table(report: Report, top: int) -> list[tuple[str, ...]]:
    """Returns the rows of the table, the header first: the fastest for each tensor, pipeline and ZeRO."""
    rows: list[tuple[str, ...]] = [("", *COLUMNS, "step", "tokens/s", "MFU", "bubble", "memory", "run")]
    for number, one in enumerate(best_of_each(report.plan.fitting)[:top], start=1):
        rows.append(
            (
                str(number),
                *one.choice.texts().values(),
                step_text(one.seconds),
                format_count(one.tokens_per_second),
                f"{one.mfu:.1%}",
                f"{one.time.bubble / one.seconds:.1%}",
                format_bytes(one.memory.device),
                format_duration(report.cost(one).seconds),
            )
        )
    return rows


def step_text(seconds: float) -> str:
    """Formats the time of a step."""
    return f"{seconds:.4g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def own_layout(report: Report) -> str:
    """Returns the line about the layout that the config has, on as many GPUs."""
    plan = report.plan
    try:
        own = report.request.own_layout()
    except UserError as error:
        return f"the config's own layout is not among them: {error}"
    if own.choice == plan.best.choice:
        return "the config's own layout: the first"
    longer = own.seconds / plan.best.seconds - 1
    fits = "fits" if own.memory.device <= plan.limit_bytes else "does not fit"
    return (
        f"the config's own layout: {step_text(own.seconds)} a step, {longer:+.0%} against the first; it needs "
        f"{format_bytes(own.memory.device)}, which {fits}"
    )


def details(report: Report) -> list[str]:
    """Returns the lines about the first layout: memory, time, traffic, cost, and why it is the first."""
    best, cost = report.plan.best, report.cost(report.plan.best)
    memory, parts = best.memory, best.time.parts()
    held = ", ".join(f"{format_bytes(size)} {name}" for name, size in memory.parts().items() if size)
    spent = ", ".join(f"{name} {seconds / best.seconds:.1%}" for name, seconds in parts.items() if seconds)
    lines = [
        f"memory of the fullest rank: {held}; {format_bytes(memory.build)} at most while it is built, and "
        f"{format_bytes(memory.saving + memory.offloaded)} on the host for saving"
        + (" and for what is offloaded" if memory.offloaded else ""),
        f"time of a step: {step_text(best.seconds)}: {spent}",
    ]
    lines += [
        f"sent by a rank in a step over the {one.axis} axis: {format_bytes(one.bytes)}, {one.link.name}"
        for one in sent_in_a_step(best.step, report.request.machine)
    ]
    price = "" if cost.price is None else f", {cost.price:,.0f} in money"
    lines.append(
        f"the run: {format_duration(cost.seconds)}, {cost.gpu_hours:,.3g} GPU hours, {cost.energy_mwh:.3g} MWh{price}; "
        "without evaluations, checkpoints and faults"
    )
    return [*lines, "why it is the first:", *_indented(why_first(report.plan)), *_changes(report.plan)]


def law_lines(report: Report) -> list[str]:
    """Returns the lines about what laws say of the run."""
    request, law, optim = report.request, report.lr_and_batch, report.request.config.optim
    train = request.config.train
    ratio = request.tokens / request.parameters
    lines = [
        f"Step Law (arXiv 2503.04715): optim.lr={law.lr:.3g} (the config has {optim.lr:.3g}), a batch of "
        f"{format_count(law.batch_tokens)} tokens: train.global_batch_size={law.global_batch_size} (the config has "
        f"{train.global_batch_size})",
        *(f"warning: {warning}" for warning in law.warnings),
        f"tokens a parameter: {ratio:.3g}; about {CHINCHILLA_TOKENS_PER_PARAMETER} give the lowest loss for their "
        "compute (arXiv 2203.15556), more give a smaller model for the same loss",
    ]
    if report.fit is not None:
        found, schedule = report.fit.forecast, report.fit.schedule
        text = (
            found if isinstance(found, str) else f"{found.loss:.4f}, within {found.low:.4f} to {found.high:.4f} (90%)"
        )
        lines += [
            f"forecast of the final held-out loss: {text}",
            f"schedule with the lowest forecast at this lr, {schedule.loss:.4f}: "
            f"{section_override('schedule', schedule.section or {})}",
            *(f"warning: {warning}" for warning in report.fit.warnings),
        ]
    return lines


def plain_report(report: Report, top: int) -> dict[str, Any]:
    """Returns the report as plain values."""
    request, plan, law = report.request, report.plan, report.lr_and_batch
    forecast, warnings = None, [*law.warnings]
    if report.fit is not None:
        warnings += report.fit.warnings
        if isinstance(report.fit.forecast, str):
            warnings.append(f"forecast of the final held-out loss: {report.fit.forecast}")
        else:
            forecast = vars(report.fit.forecast)
    return {
        "gpus": request.gpus,
        "machine": request.machine.to_plain(),
        "parameters": request.parameters,
        "tokens": request.tokens,
        "flops_per_token": request.flops_per_token,
        "fitting": len(plan.fitting),
        "too_large": len(plan.too_large),
        "refused": {key: vars(one) for key, one in plan.refused.items()},
        "layouts": [_plain_layout(report, one) for one in best_of_each(plan.fitting)[:top]],
        "own_layout": own_layout(report),
        "reasons": why_first(plan),
        "changes": what_would_change(plan),
        "law": {"lr": law.lr, "batch_tokens": law.batch_tokens, "global_batch_size": law.global_batch_size},
        "forecast": forecast,
        "schedule": None if report.fit is None else dict(report.fit.schedule.section or {}),
        "warnings": warnings,
    }


def _plain_layout(report: Report, one: PlannedLayout) -> dict[str, Any]:
    memory = one.memory
    return {
        "values": one.choice.values(),
        "seconds_per_step": one.seconds,
        "tokens_per_second": one.tokens_per_second,
        "mfu": one.mfu,
        "seconds": one.time.parts(),
        "memory_bytes": {**memory.parts(), "build": memory.build, "saving": memory.saving, "most": memory.device},
        "sent_bytes": {
            sent.axis: {"bytes": sent.bytes, "link": sent.link.name}
            for sent in sent_in_a_step(one.step, report.request.machine)
        },
        "run": vars(report.cost(one)),
    }


def _changes(plan: Plan) -> list[str]:
    return ["what would change it:", *_indented(what_would_change(plan))]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
