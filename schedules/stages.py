"""The schedules of a run's stages one after the other, as one function of the global step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schedules.base import Floats, Ints, Schedule


def in_sequence(schedules: Sequence[Schedule]) -> Schedule:
    """Returns the schedule that goes through all of them: each begins at the step after the last one of the one before.

    Each is a function of its own steps, so what is added later changes nothing of what is before.
    """
    ends = np.cumsum([schedule.total_steps for schedule in schedules])

    def lr(ordinal_n: Ints) -> Floats:
        parts = np.split(ordinal_n, np.searchsorted(ordinal_n, ends[:-1], side="right"))
        starts = [0, *ends[:-1]]
        return np.concatenate(
            [schedule.of_ordinals(part - start) for schedule, part, start in zip(schedules, parts, starts, strict=True)]
        )

    return Schedule(int(ends[-1]), lr)


def rewarmed(schedule: Schedule, *, warmup_steps: int, from_lr: float) -> Schedule:
    """Returns the schedule with a warm-up, of at least one step, that rises (or falls) from `from_lr`, linearly.

    The last step of the warm-up, and all later ones, keep their lr to the bit.
    """

    peak = schedule(warmup_steps - 1)

    def lr(ordinal_n: Ints) -> Floats:
        warm = np.searchsorted(ordinal_n, warmup_steps)
        rise_n = from_lr + (peak - from_lr) * (ordinal_n[:warm] / warmup_steps)
        return np.concatenate([rise_n, schedule.of_ordinals(ordinal_n[warm:])])

    return Schedule(schedule.total_steps, lr)
