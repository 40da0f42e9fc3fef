"""The registered forecast of a run: the config, the law and the whole curve, written before the run begins.

`lehr ladder register` writes it. A run whose `train.forecast` names it must be the one that was registered; its hash is
in run.json and in each checkpoint, so that a change after the start shows.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from launcher.run.config import RunConfig
from launcher.run.config_digest import decisive_keys
from launcher.run.input_hashes import REGISTERED, inputs_of
from launcher.run.planned_schedule import planned_curve
from launcher.run.provenance import list_differences
from laws.curve import EvaluationPoints, every_step
from laws.fitting.fitted import Fit, load_fit
from laws.law import CurveLaw
from model.config import ModelConfig
from model.size import parameters
from settings import Settings, UserError, parse
from settings.declarations import MAY_CHANGE, declared
from settings.differences import differing, show
from settings.files import read_json
from train.run_folder.input_hashes import Inputs

_MOST_POINTS = 200
_SAME = 1e-9  # relative, of two computations of one forecast
_DECISIVE = ("train.steps", "branch.run", "branch.step")  # although a run may go on with others


class CurveForecast(Settings):
    """The forecast loss after each of these steps, with its 90% interval."""

    steps: tuple[int, ...]
    loss: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Register(Settings):
    """A forecast that is fixed before its run begins. JSON on disk."""

    format: Literal[1] = 1
    registered: str = Field(description="when: a time of UTC")
    config: dict[str, Any] = Field(description="the keys of the run that decide its losses, where they are no defaults")
    data: Inputs = Field(description="hashes of the tokenizer and the shards of the run")
    inputs: dict[str, str] = Field(description="SHA-256 of each file that the forecast is made from")
    runs: dict[str, str] = Field(description="hash of the config of each fitted run, by its name")
    forecast: CurveForecast
    fit: Fit = Field(description="the law, and the runs that it was fitted to")


def registered_forecast(
    fit: Fit, config: RunConfig, model: ModelConfig, *, inputs: Mapping[str, str], runs: Mapping[str, str]
) -> Register:
    """Returns the register of a run to come, as of now. `model`: with its vocabulary."""
    return Register(
        registered=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        config=_compared(config),
        data=inputs_of(config).model_copy(update={"registered_forecast": ""}),
        inputs=dict(inputs),
        runs=dict(runs),
        forecast=curve_forecast(fit, config, model),
        fit=fit,
    )


def curve_forecast(fit: Fit, config: RunConfig, model: ModelConfig) -> CurveForecast:
    """Returns the forecast of a run's whole curve after the warm-up."""
    points = run_points(config, model, fit.law, most=_MOST_POINTS)
    low, high = fit.band(points)
    return CurveForecast(
        steps=tuple(points.steps.tolist()),
        loss=tuple(fit.predict(points).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def run_points(config: RunConfig, model: ModelConfig, law: CurveLaw, *, most: int) -> EvaluationPoints:
    """Returns about `most` points on the planned curve of a run, with the size and the batch that the law needs."""
    size, batch_tokens = size_and_batch(config, model, law)
    return every_step(planned_curve(config), most=most, parameters=size, batch_tokens=batch_tokens)


def size_and_batch(config: RunConfig, model: ModelConfig, law: CurveLaw) -> tuple[float | None, float | None]:
    """Returns all parameters of the model and the tokens of a step, each where the law spans them; else None."""
    size = parameters(model, seq_length=config.train.seq_length) if law.spans_sizes else None
    batch_tokens = float(config.train.global_batch_size * config.train.seq_length)
    return size, batch_tokens if law.spans_batches else None


def load_forecast(path: Path) -> tuple[Fit, Register | None]:
    """Reads the fit of a fit file, or of a register, which comes with it. Raises UserError if it is neither."""
    invalid = (
        f"{path} is no fit file and no register: it must be JSON that `lehr law fit RUN... -o {path}` or `lehr ladder "
        "register` writes"
    )
    plain = read_json(path, invalid=invalid) if path.is_file() else None
    if not (isinstance(plain, dict) and REGISTERED in plain):
        return load_fit(path), None
    register = parse(Register, plain, source=f"register {path}")
    return register.fit, register


def check_registered(register: Register, config: RunConfig, model: ModelConfig) -> None:
    """Raises UserError unless the run is the registered one, and the registered curve is that of its law."""
    wanted = f"train.forecast = {config.train.forecast}"
    lines = [
        f"{key}: {show(pair.old)} registered, {show(pair.new)} here"
        for key, pair in differing(register.config, _compared(config)).items()
    ]
    lines += register.data.differences(
        inputs_of(config).model_copy(update={"registered_forecast": ""}), all_sources=True
    )
    if lines:
        raise UserError(
            f"{wanted}: it is the registered forecast of another run:\n{list_differences(lines)}\n"
            "start the registered run, or register a forecast of this one (lehr ladder register)"
        )
    now = curve_forecast(register.fit, config, model)
    there, here = (np.array([each.loss, each.low, each.high]) for each in (register.forecast, now))
    same = register.forecast.steps == now.steps and there.shape == here.shape
    if not (same and np.allclose(there, here, rtol=_SAME, atol=0)):
        raise UserError(
            f"{wanted}: its curve is not the one of its own law, so the file was altered; put back the file that "
            "`lehr ladder register` wrote"
        )


def _compared(config: RunConfig) -> dict[str, Any]:
    """Returns the keys in which a run must agree with the registered one."""
    plain = config.to_plain()
    return {
        key: value
        for key, value in decisive_keys(config).items()
        if key in _DECISIVE or declared(RunConfig, key, plain, MAY_CHANGE) is None
    }
