"""The lr of every step of a run to come, read and built as `lehr train` does."""

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
    """Of a run config, what a forecast needs: what `lehr law schedule` writes, and what stands alone here."""

    optim: _Optim
    schedule: Annotated[ScheduleConfig, SCHEDULES.field]
    train: _Train


def read_plan(words: Sequence[str], fit: Fit) -> Schedule:
    """`[CONFIG] [KEY=VALUE]...`, as `lehr train` takes them: a whole config, a fragment of one, or keys alone.

    A fragment's optim.lr is the fit's peak unless it says another; a whole config is checked whole. Raises UserError.
    """
    config = Path(words[0]) if words and ("=" not in words[0] or Path(words[0]).is_file()) else None
    overrides = words if config is None else words[1:]
    plain = read_yaml(config, overrides)
    if config is not None and not set(plain) <= set(_Fragment.model_fields):
        from launcher.run.config import RunConfig  # brings torch

        run = compose(RunConfig, config, overrides)
        return planned_schedule(run.schedule, peak_lr=run.optim.lr, steps=run.train.steps)
    for section in ("optim", "train"):
        plain.setdefault(section, {})
    if isinstance(plain["optim"], dict) and "lr" not in plain["optim"]:
        plain["optim"]["lr"] = default_peak(fit)
    fragment = parse(_Fragment, plain, source="the run to come" if config is None else str(config))
    return planned_schedule(fragment.schedule, peak_lr=fragment.optim.lr, steps=fragment.train.steps)


def planned_schedule(config: ScheduleConfig, *, peak_lr: float, steps: int) -> Schedule:
    """Of any registered schedule. Raises UserError where its settings do not fit the run."""
    lr = config.build(peak_lr=peak_lr, total_steps=steps)
    lr_n = np.array([lr(step) for step in range(steps)])
    warmup_steps = stated_warmup(config)
    return Schedule(lr_n, min(detect_warmup(lr_n) if warmup_steps is None else warmup_steps, steps))


def stated_warmup(config: ScheduleConfig) -> int | None:
    """The warm-up that a schedule's settings say; None where they say none (a table)."""
    value = getattr(config, "warmup_steps", None)
    return value if isinstance(value, int) else None
