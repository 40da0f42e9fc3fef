"""The learning-rate schedule of a run to come, read and built as `lehr train` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from launcher.run.fit_scope import default_peak
from laws.curve import LrCurve, detect_warmup, planned_lr_curve
from laws.fitting.fitted import Fit
from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings, parse, read_yaml
from settings.overrides import is_override

if TYPE_CHECKING:
    from launcher.run.config import RunConfig


class _Optim(Settings):
    lr: float = Field(gt=0)


class _Train(Settings):
    steps: int = Field(ge=1)


class _Fragment(Settings):
    """The keys of a run config that a forecast needs. `lehr law schedule` writes such a file."""

    optim: _Optim
    schedule: Annotated[ScheduleConfig, SCHEDULES.field]
    train: _Train


def planned_curve(config: RunConfig) -> LrCurve:
    """Returns the lr of every step of a run to come, through all of its stages. Raises UserError as `run_schedule`."""
    from launcher.run.stages import run_schedule, stated_warmup  # imports torch

    lr_n, warmup_steps = run_schedule(config).every_step(), stated_warmup(config)
    return LrCurve(lr_n, detect_warmup(lr_n) if warmup_steps is None else warmup_steps)


def read_planned_schedule(words: Sequence[str], fit: Fit) -> LrCurve:
    """Reads `[CONFIG] [KEY=VALUE]...` as `lehr train` does: a full config, a fragment of one, or keys alone.

    In a fragment, optim.lr is by default the peak of the fitted curves. A full config is checked in full. Raises
    UserError.
    """
    config = Path(words[0]) if words and (not is_override(words[0]) or Path(words[0]).is_file()) else None
    overrides = words if config is None else words[1:]
    plain = read_yaml(config, overrides)
    if config is not None and not set(plain) <= set(_Fragment.model_fields):
        from launcher.run.config import load_run_config  # imports torch
        from launcher.run.schedule_phases import phases_on_record, with_phases

        run = load_run_config(config, overrides)
        return planned_curve(with_phases(run, phases_on_record(run)))
    for section in ("optim", "train"):
        plain.setdefault(section, {})
    if isinstance(plain["optim"], dict) and "lr" not in plain["optim"]:
        plain["optim"]["lr"] = default_peak(fit)
    fragment = parse(_Fragment, plain, source="the run to come" if config is None else str(config), overrides=overrides)
    return planned_lr_curve(fragment.schedule, peak_lr=fragment.optim.lr, total_steps=fragment.train.steps)
