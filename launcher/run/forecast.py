"""`train.forecast`: what it names is checked before any process is started, and made into the run's forecast."""

from __future__ import annotations

import math
from pathlib import Path

from launcher.run.config import RunConfig
from launcher.run.fit_scope import schedule_warnings
from launcher.run.planned_schedule import planned_schedule, stated_warmup
from launcher.run.provenance import compare, config_provenance, listed_keys
from laws.fitting.fitted import Fit, load_fit
from laws.forecasting import FittedForecast, OwnForecast, RunProgress
from laws.law import DEFAULT_LAW, LAWS
from model.config import ModelConfig
from model.size import parameters
from settings import UserError
from train.metrics.forecast import HELD_OUT_LOSS, RunForecast


def check_forecast(config: RunConfig, model: ModelConfig) -> list[str]:
    """Warnings, a line each. `model`: with its vocabulary. Raises UserError for what cannot forecast this run."""
    wanted = config.train.forecast
    if wanted is None:
        return []
    for stage in config.data.stages:
        if 0 < stage.from_step < config.train.steps:
            raise UserError(
                f"train.forecast = {wanted}: data.stages changes the mix of data at step {stage.from_step}, and no law "
                "of the lr covers that; leave train.forecast out"
            )
    if wanted == "auto":
        return _too_few(config)
    fit = load_fit(Path(wanted))
    schedule = planned_schedule(config.schedule, peak_lr=config.optim.lr, steps=config.train.steps)
    lines = [*_compared(config, fit), *schedule_warnings(fit, schedule)]
    final = _fitted(config, model, fit).predict_loss(RunProgress(schedule, None), schedule.steps)
    if not isinstance(final, str) and not all(map(math.isfinite, (final.loss, final.low, final.high))):
        raise UserError(f"train.forecast = {wanted}: its forecast of this run is not a number; fit the law again")
    return [f"train.forecast = {wanted}: {line}" for line in lines]


def run_forecast(config: RunConfig, model: ModelConfig) -> RunForecast:
    """What the metrics of a run take, where `train.forecast` is given. `check_forecast`'s errors apply."""
    wanted = config.train.forecast
    assert wanted is not None
    auto = wanted == "auto"
    return RunForecast(
        OwnForecast(LAWS.parse(DEFAULT_LAW)) if auto else _fitted(config, model, load_fit(Path(wanted))),
        promised=not auto,
        lr=config.schedule.build(peak_lr=config.optim.lr, total_steps=config.train.steps),
        total_steps=config.train.steps,
        warmup_steps=stated_warmup(config.schedule),
    )


def _fitted(config: RunConfig, model: ModelConfig, fit: Fit) -> FittedForecast:
    size = parameters(model, seq_length=config.train.seq_length) if fit.law.spans_sizes else None
    return FittedForecast(fit, parameters=size)


def _compared(config: RunConfig, fit: Fit) -> list[str]:
    """Warnings, where the fit's curves are of runs that differ from this one. Raises UserError where they differ so
    that their loss is another."""
    here = config_provenance(config.to_plain(), loss=HELD_OUT_LOSS)
    for curve in fit.curves:
        differences = compare(curve.origin, here, sizes=fit.law.spans_sizes)
        if differences.severe:
            raise UserError(
                f"train.forecast = {config.train.forecast}: it was fitted on a run of another model, data or batch "
                f"({curve.name}), and a law speaks only of what it was fitted on:\n{listed_keys(differences.severe)}\n"
                "fit one on runs of this config (lehr law fit RUN... -o FIT.json), or set train.forecast to auto"
            )
        if differences.slight:
            return [f"it was fitted on a run ({curve.name}) that differs:\n{listed_keys(differences.slight)}"]
    if not all(curve.origin for curve in fit.curves) or not fit.curves:
        return ["it does not say what its curves are of; it forecasts this run only if they are of this model and data"]
    return []


def _too_few(config: RunConfig) -> list[str]:
    """A warning where the run will not be evaluated often enough for a refit."""
    steps, every = config.train.steps, config.evaluate.every_steps
    after = steps - (stated_warmup(config.schedule) or 0)
    least = OwnForecast(LAWS.parse(DEFAULT_LAW)).least_losses
    if every and after // every > least:
        return []
    advice = max(after // (3 * least), 1)
    return [
        f"train.forecast = auto: evaluate.every_steps = {every} gives {after // every if every else 1} held-out losses "
        f"after the warm-up, and a forecast needs {least}: set it to {advice}"
    ]
