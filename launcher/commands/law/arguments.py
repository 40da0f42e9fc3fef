"""The arguments of `lehr law`, read as laws and constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import Field

from launcher.run.fit_scope import default_peak, default_warmup
from laws.fitting.fitted import Fit
from laws.law import LAWS, CurveLaw
from laws.schedule_search.candidate import Constraints
from settings import Settings, UserError, parse
from settings.errors import nearest


def above_zero(option: typer.CallbackParam, value: Any) -> Any:
    """The callback of an option that takes a number, or several. Raises UserError unless each is above 0 and finite."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"{option.opts[0]} = {number:g} must be above 0 and finite")
    return value


def check_batch(batch_tokens: float | None, tokens: float | None) -> None:
    """Raises UserError if `--batch-tokens`, which is of a step, is above `--tokens`, which is of the whole run."""
    if batch_tokens is not None and tokens is not None and batch_tokens > tokens:
        raise UserError(
            f"--batch-tokens = {batch_tokens:g} must be at most --tokens = {tokens:g}: a run has at least one step"
        )


FitArgument = Annotated[Path, typer.Argument(metavar="FIT", help="A fit file of `lehr law fit -o`.")]
ParametersOption = Annotated[
    float | None,
    typer.Option("--parameters", callback=above_zero, help="The size of the model, for a law over model sizes."),
]
BatchOption = Annotated[
    float | None,
    typer.Option("--batch-tokens", callback=above_zero, help="The tokens a step of the run, for a law over batches."),
]


def curve_law(text: str) -> CurveLaw:
    """Reads `annealing` or `annealing:warmup=peak,decay=0.99`."""
    plain = name_and_options(text, option="--law")
    return parse(LAWS[plain["name"]], plain, source="--law")


def name_and_options(text: str, *, option: str) -> dict[str, Any]:
    """Reads `NAME:key=value,...` as a mapping with a `name`."""
    name, _, rest = text.partition(":")
    plain: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} {text!r}: {item!r} must have the form key=value")
        plain[key.strip()] = _value(value)
    return plain


class ConstraintSettings(Settings):
    """The keys of `--constraint key=value`."""

    peak_lr: float | None = Field(None, gt=0)
    warmup_steps: int | None = Field(None, ge=0)
    min_lr: float | None = Field(None, ge=0)
    max_decay_share: float = Field(1.0, gt=0, le=1)
    families: tuple[str, ...] | None = None
    free_form: bool = True


def read_constraints(fit: Fit, items: Sequence[str], *, parameters: float | None) -> Constraints:
    """Reads `key=value` texts. The defaults are the peak, the warm-up and the lowest lr of the fitted curves."""
    plain: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--constraint {item!r} must have the form key=value")
        if key not in ConstraintSettings.model_fields:
            raise UserError(f'--constraint: unknown key "{key}"{nearest(key, ConstraintSettings.model_fields)}')
        plain[key] = tuple(filter(None, value.split(","))) if key == "families" else _value(value)
    given = parse(ConstraintSettings, plain, source="--constraint")
    peak = default_peak(fit) if given.peak_lr is None else given.peak_lr
    lowest = min((curve.last_lr for curve in fit.curves), default=0.0)
    return Constraints(
        peak_lr=peak,
        warmup_steps=default_warmup(fit) if given.warmup_steps is None else given.warmup_steps,
        min_lr=min(lowest, peak) if given.min_lr is None else given.min_lr,
        families=given.families,
        free_form=given.free_form,
        max_decay_share=given.max_decay_share,
        parameters=parameters,
    )


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text) if not _is_float(text) else float(text) if not text.isdigit() else int(text)
    except yaml.YAMLError:
        return text


def _is_float(text: str) -> bool:
    try:
        float(text)  # YAML reads 3e-4 as a word
    except ValueError:
        return False
    return True
