"""The advice of laws for a run: lr and batch, tokens a parameter, and with a fit the schedule and the final loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.plan.request import Request, with_planned
from launcher.run.config import RunConfig
from launcher.run.fit_scope import default_warmup
from launcher.run.forecast import check_forecast, final_forecast
from launcher.run.register import load_forecast
from laws.fitting.fitted import Fit
from laws.forecasting.prediction import Prediction
from laws.scaling.hyperparameters import step_law
from laws.schedule_search.candidate import Candidate, Constraints
from laws.schedule_search.search import search
from model.config import ModelConfig
from model.size import non_embedding_parameters, parameters
from settings import UserError

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # arXiv 2203.15556, table 3


@dataclass(frozen=True)
class LrAndBatch:
    """The advice of Step Law, with a global batch that the GPUs can share."""

    lr: float
    batch_tokens: float
    global_batch_size: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FitAdvice:
    """The advice of a fit: the forecast of the run as it is, and the schedule with the lowest final loss at its lr."""

    forecast: Prediction | str  # or why there is none
    schedule: Candidate
    warnings: tuple[str, ...]


def lr_and_batch(request: Request, *, tokens: float) -> LrAndBatch:
    """Returns Step Law's lr and batch for the model and the tokens (arXiv 2503.04715)."""
    config = request.config
    law = step_law(parameters=non_embedding_parameters(request.model), tokens=tokens)
    warnings = list(law.warnings)
    if config.optim.name != "adamw":
        warnings.append(f"Step Law is of AdamW, and optim.name = {config.optim.name}")
    rows = law.rows(config.train.seq_length)
    return LrAndBatch(law.lr, law.batch_tokens, shared_rows(rows, request.gpus), tuple(warnings))


def shared_rows(rows: int, gpus: int) -> int:
    """Returns the number of rows nearest to `rows` that GPUs can share in many layouts: a multiple of their number, or
    below that a power of 2."""
    if 2 * rows >= gpus:
        return max(1, round(rows / gpus)) * gpus
    return 1 << (rows.bit_length() - 1)


def with_budget(config: RunConfig, *, tokens: float) -> RunConfig:
    """Returns the config with as many steps as the tokens allow. Raises UserError where stages decide the steps."""
    if config.stages:
        raise UserError("the config has stages, which decide train.steps: change stages.N.steps, and give no budget")
    per_step = config.train.global_batch_size * config.train.seq_length
    steps = int(tokens // per_step)
    if steps < 1:
        raise UserError(
            f"the budget is {tokens:,.0f} tokens, and a step takes {per_step:,}; give more, or make "
            "train.global_batch_size smaller"
        )
    return with_planned(config, {"train.steps": steps})


def with_law(config: RunConfig, advice: LrAndBatch, *, tokens: float) -> RunConfig:
    """Returns the config with the law's lr and batch, and as many steps as the tokens allow."""
    lr = float(f"{advice.lr:.3g}")
    values = {"optim.lr": lr, "train.global_batch_size": advice.global_batch_size}
    return with_budget(with_planned(config, values), tokens=tokens)


def fit_advice(config: RunConfig, model: ModelConfig, path: Path) -> FitAdvice:
    """Returns what the fit of a fit file or a register says of a run. Raises UserError as `check_forecast` does."""
    run = with_planned(config, {"train.forecast": str(path)})
    warnings = check_forecast(run, model)
    fit, _ = load_forecast(path)
    return FitAdvice(final_forecast(run, model, fit), _best_schedule(run, model, fit), tuple(warnings))


def _best_schedule(config: RunConfig, model: ModelConfig, fit: Fit) -> Candidate:
    peak = config.optim.lr
    constraints = Constraints(
        peak_lr=peak,
        warmup_steps=min(default_warmup(fit), config.train.steps - 1),
        min_lr=min([peak, *(curve.last_lr for curve in fit.curves)]),
        free_form=False,
        parameters=float(parameters(model, seq_length=config.train.seq_length)) if fit.law.spans_sizes else None,
    )
    return search(fit, steps=config.train.steps, constraints=constraints)[0]
