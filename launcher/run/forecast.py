"""`train.forecast`: the checks before any process is started, and the forecast that the metrics use."""

from __future__ import annotations

import math
from pathlib import Path

from launcher.run.config import RunConfig
from launcher.run.fit_scope import schedule_warnings
from launcher.run.planned_schedule import planned_curve
from launcher.run.provenance import compare, config_provenance, list_differences
from launcher.run.register import check_registered, load_forecast, size_and_batch
from launcher.run.stages import run_schedule, stated_warmup
from laws.fitting.fitted import Fit
from laws.forecasting.fixed_fit_forecast import FixedFitForecast
from laws.forecasting.prediction import Prediction, RunProgress
from laws.forecasting.refitted_forecast import RefittedForecast
from laws.law import DEFAULT_LAW, LAWS
from model.config import ModelConfig
from schedules.stage_lengths import mixes
from settings import UserError
from train.held_out_loss import HELD_OUT_LOSS
from train.metrics.forecast import RunForecast


def check_forecast(config: RunConfig, model: ModelConfig) -> list[str]:
    """Returns warnings, a line each. `model`: with its vocabulary. Raises UserError if no forecast is possible."""
    wanted = config.train.forecast
    if wanted is None:
        return []
    for mix in mixes(config.to_plain())[1:]:
        raise UserError(
            f"train.forecast = {wanted}: {mix.key} changes the mix of data at step {mix.first_step}, and no law of the "
            "lr covers that; remove train.forecast"
        )
    if wanted == "auto":
        return _too_few_evaluations(config)
    fit, register = load_forecast(Path(wanted))
    if register is not None:
        check_registered(register, config, model)
    schedule = planned_curve(config)
    lines = [*_provenance_warnings(config, fit), *schedule_warnings(fit, schedule)] if register is None else []
    final = final_forecast(config, model, fit)
    if not isinstance(final, str) and not all(map(math.isfinite, (final.loss, final.low, final.high))):
        raise UserError(f"train.forecast = {wanted}: its forecast of this run is not finite; fit the law again")
    return [f"train.forecast = {wanted}: {line}" for line in lines]


def final_forecast(config: RunConfig, model: ModelConfig, fit: Fit) -> Prediction | str:
    """Returns the forecast of a run's final loss by a fit, or why there is none. `model`: with its vocabulary."""
    schedule = planned_curve(config)
    return _fitted_forecast(config, model, fit).predict_loss(RunProgress(schedule, None), schedule.steps)


def run_forecast(config: RunConfig, model: ModelConfig) -> RunForecast:
    """Builds the forecast for the metrics of a run whose `train.forecast` is set. Raises as `check_forecast` does."""
    wanted = config.train.forecast
    assert wanted is not None
    schedule = run_schedule(config)
    auto = wanted == "auto"
    return RunForecast(
        RefittedForecast(LAWS.parse(DEFAULT_LAW))
        if auto
        else _fitted_forecast(config, model, load_forecast(Path(wanted))[0]),
        from_other_runs=not auto,
        planned_lr_n=schedule.every_step(),
        warmup_steps=stated_warmup(config),
    )


def _fitted_forecast(config: RunConfig, model: ModelConfig, fit: Fit) -> FixedFitForecast:
    size, batch_tokens = size_and_batch(config, model, fit.law)
    return FixedFitForecast(fit, parameters=size, batch_tokens=batch_tokens)


def _provenance_warnings(config: RunConfig, fit: Fit) -> list[str]:
    """Returns a warning if a fitted run differs slightly from this one. Raises UserError if it differs severely."""
    here = config_provenance(config.to_plain(), loss=HELD_OUT_LOSS)
    for curve in fit.curves:
        differences = compare(curve.origin, here, sizes=fit.law.spans_sizes, batches=fit.law.spans_batches)
        if differences.severe:
            raise UserError(
                f"train.forecast = {config.train.forecast}: it was fitted on a run of another model, data or batch "
                f"({curve.name}), and a law holds only for such runs as it was fitted on:\n"
                f"{list_differences(differences.severe)}\n"
                "fit one on runs of this config (lehr law fit RUN... -o FIT.json), or set train.forecast to auto"
            )
        if differences.slight:
            return [f"it was fitted on a run ({curve.name}) that differs:\n{list_differences(differences.slight)}"]
    if not all(curve.origin for curve in fit.curves) or not fit.curves:
        return ["it does not record the runs of its curves; its forecast is valid only if they had this model and data"]
    return []


def _too_few_evaluations(config: RunConfig) -> list[str]:
    """Returns a warning if the run will not be evaluated often enough for a forecast."""
    steps, every = config.train.steps, config.evaluate.every_steps
    after = steps - (stated_warmup(config) or 0)
    least = RefittedForecast(LAWS.parse(DEFAULT_LAW)).least_losses
    if every and after // every > least:
        return []
    advice = max(after // (3 * least), 1)
    return [
        f"train.forecast = auto: evaluate.every_steps = {every} gives {after // every if every else 1} held-out losses "
        f"after the warm-up, and a forecast needs {least}: set it to {advice}"
    ]
