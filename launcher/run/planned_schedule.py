"""The lr of every step of a run to come, read and built as `lehr train` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from launcher.run.fit_scope import default_peak
from laws.curve import LrCurve, planned_lr_curve
from laws.fitting.fitted import Fit
from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings, compose, parse, read_yaml


class _Optim(Settings):
    lr: float = Field(gt=0)


class _Train(Settings):
    steps: int = Field(ge=1)


class _Fragment(Settings):
    """Of a run config, what a forecast needs: what `lehr law schedule` writes, and what stands alone here."""

    optim: _Optim
    schedule: Annotated[ScheduleConfig, SCHEDULES.field]
    train: _Train


def read_plan(words: Sequence[str], fit: Fit) -> LrCurve:
    """`[CONFIG] [KEY=VALUE]...`, as `lehr train` takes them: a whole config, a fragment of one, or keys alone.

    A fragment's optim.lr is the fit's peak unless it says another; a whole config is checked whole. Raises UserError.
    """
    config = Path(words[0]) if words and ("=" not in words[0] or Path(words[0]).is_file()) else None
    overrides = words if config is None else words[1:]
    plain = read_yaml(config, overrides)
    if config is not None and not set(plain) <= set(_Fragment.model_fields):
        from launcher.run.config import RunConfig  # brings torch

        run = compose(RunConfig, config, overrides)
        return planned_lr_curve(run.schedule, peak_lr=run.optim.lr, total_steps=run.train.steps)
    for section in ("optim", "train"):
        plain.setdefault(section, {})
    if isinstance(plain["optim"], dict) and "lr" not in plain["optim"]:
        plain["optim"]["lr"] = default_peak(fit)
    fragment = parse(_Fragment, plain, source="the run to come" if config is None else str(config))
    return planned_lr_curve(fragment.schedule, peak_lr=fragment.optim.lr, total_steps=fragment.train.steps)
