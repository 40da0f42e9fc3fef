"""The steps of a plan: the budget becomes tokens, laws give lr and batch, layouts are ranked, a config is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from launcher.plan.law_advice import fit_advice, lr_and_batch, with_budget, with_law
from launcher.plan.report import Report
from launcher.plan.request import Request, vocabulary_of, with_planned
from launcher.run.config import RunConfig
from launcher.run.preflight import workload
from launcher.run.stages import run_schedule
from parallel.layout import check_layout
from parallel.planning.machine_file import MachineConfig
from settings import UserError


@dataclass(frozen=True)
class Budget:
    """The limit of the run: hours, FLOPs or tokens; at most one of them is set."""

    hours: float | None = None
    flops: float | None = None
    tokens: float | None = None

    def check(self) -> None:
        """Raises UserError for several budgets, and for one that is not above 0."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise UserError(f"{' and '.join(f'--{name}' for name in given)} are different budgets; give one of them")
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise UserError(f"--{name} {value:g} must be above 0 and finite")

    def tokens_of(self, request: Request) -> float:
        """Returns how many tokens the budget allows; without one those of the config."""
        if self.hours is not None:
            return self.hours * 3600 * request.plan_of_fitting().best.tokens_per_second
        if self.flops is not None:
            return self.flops / request.flops_per_token
        return request.tokens if self.tokens is None else self.tokens


def make_report(
    config: RunConfig,
    machine: MachineConfig,
    *,
    gpus: int,
    kept: tuple[str, ...],
    headroom: float,
    budget: Budget,
    by_law: bool,
    fit: Path | None,
    price_per_gpu_hour: float | None,
) -> Report:
    """Plans a run. Raises UserError for a mistake in the config, and if no layout can be or none fits.

    With a budget of hours, the tokens are those of the layout that is best with the config's batch; by law they then
    give the batch, and another layout may be the best. The tokens stay.
    """
    budget.check()
    run_schedule(config)
    request = Request(config, vocabulary_of(config), machine, gpus, headroom, kept)
    tokens = budget.tokens_of(request)
    advice = lr_and_batch(request, tokens=tokens)
    if by_law:
        request = replace(request, config=with_law(config, advice, tokens=tokens))
    elif budget != Budget():
        request = replace(request, config=with_budget(config, tokens=tokens))
    run_schedule(request.config)
    if price_per_gpu_hour is None and machine.price_per_hour is not None:
        price_per_gpu_hour = machine.price_per_hour.value
    return Report(
        request=request,
        plan=request.plan_of_fitting(),
        price_per_gpu_hour=price_per_gpu_hour,
        lr_and_batch=advice,
        fit=None if fit is None else fit_advice(request.config, request.model, fit),
    )


def planned_config(report: Report) -> RunConfig:
    """Returns the config with the first layout, checked as `lehr train` checks layouts and schedules."""
    request = report.request
    config = with_planned(request.config, report.plan.best.choice.values())
    check_layout(config.parallel, request.model, workload(config, request.gpus))
    run_schedule(config)
    return config
