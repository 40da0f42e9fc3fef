"""The learning-rate schedule of a run to come, read and built as `lehr train` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from launcher.run.fit_scope import default_peak
from laws.curve import Schedule, detect_warmup
from laws.fitting.fitted import Fit
from optim.schedules import SCHEDULES, ScheduleConfig
from settings import Settings, compose, parse, read_yaml


class _Optim(Settings):
    lr: float = Field(gt=0)


class _Train(Settings):
    steps: int = Field(ge=1)


class _Fragment(Settings):
    """The keys of a run config that a forecast needs. `lehr law schedule` writes such a file."""

    optim: _Optim
    schedule: Annotated[ScheduleConfig, SCHEDULES.field]
    train: _Train


def read_planned_schedule(words: Sequence[str], fit: Fit) -> Schedule:
    """Reads `[CONFIG] [KEY=VALUE]...` as `lehr train` does: a full config, a fragment of one, or keys alone.

    In a fragment, optim.lr is by default the peak of the fitted curves. A full config is checked in full. Raises
    UserError.
    """
    config = Path(words[0]) if words and ("=" not in words[0] or Path(words[0]).is_file()) else None
    overrides = words if config is None else words[1:]
    plain = read_yaml(config, overrides)
    if config is not None and not set(plain) <= set(_Fragment.model_fields):
        from launcher.run.config import RunConfig  # imports torch

        run = compose(RunConfig, config, overrides)
        return planned_schedule(run.schedule, peak_lr=run.optim.lr, steps=run.train.steps)
    for section in ("optim", "train"):
        plain.setdefault(section, {})
    if isinstance(plain["optim"], dict) and "lr" not in plain["optim"]:
        plain["optim"]["lr"] = default_peak(fit)
    fragment = parse(_Fragment, plain, source="the run to come" if config is None else str(config))
    return planned_schedule(fragment.schedule, peak_lr=fragment.optim.lr, steps=fragment.train.steps)


def planned_schedule(config: ScheduleConfig, *, peak_lr: float, steps: int) -> Schedule:
    """Builds any registered schedule as an array of lr. Raises UserError if its settings do not fit the run."""
    lr = config.build(peak_lr=peak_lr, total_steps=steps)
    lr_n = np.array([lr(step) for step in range(steps)])
    warmup_steps = configured_warmup(config)
    return Schedule(lr_n, min(detect_warmup(lr_n) if warmup_steps is None else warmup_steps, steps))


def configured_warmup(config: ScheduleConfig) -> int | None:
    """Returns the `warmup_steps` of a schedule's config, or None if it has no such key (a table)."""
    value = getattr(config, "warmup_steps", None)
    return value if isinstance(value, int) else None
