"""The constraints of a search, and the candidates that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laws.curve import LrCurve
from laws.fitting.fitted import Fit
from schedules.search_space import SearchLimits


@dataclass(frozen=True)
class Constraints:
    """The limits of every schedule, and which schedules are searched."""

    peak_lr: float
    warmup_steps: int
    min_lr: float = 0.0
    families: tuple[str, ...] | None = None  # names of registered schedules; None: all that can be searched
    free_form: bool = True
    max_decay_share: float = 1.0  # the longest final decay, as a share of the run
    parameters: float | None = None  # of the model, for laws that span sizes

    def limits(self, steps: int) -> SearchLimits:
        """Returns the limits for a run of so many steps."""
        return SearchLimits(
            total_steps=steps,
            peak_lr=self.peak_lr,
            warmup_steps=self.warmup_steps,
            min_lr=self.min_lr,
            max_decay_share=self.max_decay_share,
        )

    def allow(self, schedule: LrCurve) -> bool:
        """Returns whether a schedule keeps between min_lr and peak_lr after the warm-up, up to rounding."""
        lr_n = schedule.lr[max(self.warmup_steps, 1) - 1 :]
        return bool(lr_n.min() >= self.min_lr * (1 - 1e-12) and lr_n.max() <= self.peak_lr * (1 + 1e-12))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A schedule, its predicted final loss, and the `schedule` section of a run that follows it (None: a table)."""

    name: str
    schedule: LrCurve
    loss: float
    section: Mapping[str, Any] | None = None

    def config(self, table: Path | None = None) -> dict[str, Any]:
        """Returns the config fragment: `optim.lr` and `schedule`; `table` is the file of a free-form schedule."""
        section = dict(self.section) if self.section is not None else {"name": "table", "file": str(table)}
        return {"optim": {"lr": self.schedule.peak}, "schedule": section}


def final_loss(fit: Fit, schedule: LrCurve, parameters: float | None = None) -> float:
    """Returns the loss after the last step."""
    return fit.law.end_loss(fit.theta_p, schedule, parameters)[0]
