"""The runs of laws_on_own_runs.py: their folders, schedules, and the held-out losses that they have left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laws.curve import LossCurve, LrCurve, planned_lr_curve
from laws.reading.curves import read_curve
from schedules.base import SCHEDULES
from settings import UserError

LEAST_OF_PEAK = 0.1  # the lr at the end of every run but the constant one
FIT_FROM = 0.2  # fraction of the run: a small model's first losses follow no power law (docs/laws.md)


@dataclass(frozen=True)
class Plan:
    """The settings that all runs share."""

    config: Path
    overrides: tuple[str, ...]
    folder: Path
    steps: int
    peak_lr: float
    warmup_steps: int
    seed: int

    @property
    def first_fitted_step(self) -> int:
        """The first step whose loss is fitted."""
        return round(FIT_FROM * self.steps)

    def section(self, name: str) -> dict[str, Any]:
        """Returns the `schedule` section of a run. Tables of lr lie in the folder."""
        if name in ("rewarmed", "chosen"):
            return {"name": "table", "file": str(self.folder / f"{name}.json")}
        section = {"name": name, "warmup_steps": self.warmup_steps}
        return section if name == "constant" else {**section, "min_lr": LEAST_OF_PEAK * self.peak_lr}

    def schedule(self, name: str) -> LrCurve:
        """Returns the lr of every step of a run."""
        section = SCHEDULES.parse(self.section(name))
        built = planned_lr_curve(section, peak_lr=self.peak_lr, total_steps=self.steps)
        return LrCurve(built.lr, self.warmup_steps)

    def run(self, name: str, seed: int) -> Path:
        """Returns the folder of a run."""
        return self.folder / f"{name}-{seed}"

    def curve(self, name: str, seed: int) -> LossCurve:
        """Reads the held-out losses of a finished run."""
        return read_curve(self.run(name, seed), warmup_steps=self.warmup_steps).curve

    def finished(self, name: str, seed: int) -> bool:
        """Returns whether the run has its last loss."""
        try:
            return int(self.curve(name, seed).steps[-1]) == self.steps
        except UserError:
            return False


def rewarmed(plan: Plan) -> LrCurve:
    """Builds the re-warmed schedule.

    It is cosine to the least lr over half of the run, then rises to 0.7 of the peak within the steps of a warm-up, and
    falls linearly to the end.
    """
    half, up = plan.steps // 2, plan.warmup_steps
    peak, least = plan.peak_lr, LEAST_OF_PEAK * plan.peak_lr
    first = planned_lr_curve(SCHEDULES.parse(plan.section("cosine")), peak_lr=peak, total_steps=half).lr
    rise = np.linspace(least, 0.7 * peak, up + 1)[1:]
    fall = np.linspace(0.7 * peak, least, plan.steps - half - up + 1)[1:]
    return LrCurve(np.concatenate([first, rise, fall]), plan.warmup_steps)
