"""The goodput of a run's job: what the seconds of each start were spent on, by its begin, its end and its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.metrics.time_ledger import StartTimes

_TOLD_APART = 2.0  # a checkpoint interval is worth a word if it differs by more than this factor


@dataclass(frozen=True)
class StartGoodput:
    """The seconds of one start. They add up to the time from the end of the start before to its own end."""

    attempt: int
    queue: float
    starting: float
    useful: float  # steps, and evaluations, that a checkpoint has kept
    saving: float  # that the loop was held for checkpoints
    lost: float  # after the last checkpoint that it saved, or all if it saved none
    fault: bool  # it ended by a fault of a rank or a node (launcher/slurm/decision.py)
    saves: int
    steps: int

    @property
    def held(self) -> float:
        """The time in which the job held its nodes."""
        return self.starting + self.useful + self.saving + self.lost


@dataclass(frozen=True)
class Goodput:
    """The sums over all starts of a job."""

    starts: Sequence[StartGoodput]

    @property
    def effective_ratio(self) -> float | None:
        """Effective training time ratio: the part of the time with nodes that went into steps which were kept."""
        held = sum(start.held for start in self.starts)
        return sum(start.useful for start in self.starts) / held if held else None

    @property
    def seconds_to_recover(self) -> float | None:
        """Mean time from a fault to the first step of the next start."""
        pairs = zip(self.starts, self.starts[1:], strict=False)
        times = [after.queue + after.starting for before, after in pairs if before.fault]
        return sum(times) / len(times) if times else None

    def best_checkpoint_seconds(self) -> float | None:
        """Returns the interval of checkpoints that would lose least; None before there was a fault and a save.

        It is sqrt(2 C M): C, the time that a save holds the loop; M, the mean time between faults (Young,
        doi:10.1145/361147.361115; the first order of Daly, doi:10.1016/j.future.2004.11.016).
        """
        faults, saves = sum(start.fault for start in self.starts), sum(start.saves for start in self.starts)
        if not faults or not saves:
            return None
        save_seconds = sum(start.saving for start in self.starts) / saves
        return math.sqrt(2 * save_seconds * sum(start.held for start in self.starts) / faults)

    def interval_advice(self, every_steps: int) -> str | None:
        """Returns a line if another checkpoint interval than `every_steps` would lose much less; else None."""
        best, steps = self.best_checkpoint_seconds(), sum(start.steps for start in self.starts)
        useful = sum(start.useful for start in self.starts)
        if best is None or not steps or not useful:
            return None
        wanted = max(1, round(best / (useful / steps)))
        if every_steps and 1 / _TOLD_APART <= wanted / every_steps <= _TOLD_APART:
            return None
        faults = sum(start.fault for start in self.starts)
        return (
            f"checkpoint.every_steps = {every_steps}; {wanted} would lose least time (Young-Daly: {faults} "
            f"fault{'s' if faults > 1 else ''}, checkpoints {best:.0f} s apart)"
        )


def goodput_of(
    events: Sequence[Mapping[str, Any]], times: Sequence[StartTimes], *, submitted: float | None, now: float
) -> Goodput:
    """Returns the goodput of one job from its events (launcher/slurm/job_folder.py) and the ledger of its starts.

    `submitted` and `now` are on the clock of time.time(). An attempt without a recorded end lasted until the next one
    began, as far as is known, or lasts still.
    """
    begins = [event for event in events if event.get("event") == "begin"]
    starts, free = [], submitted
    for number, begin in enumerate(begins):
        began, attempt = float(begin["time"]), int(begin["attempt"])
        following = float(begins[number + 1]["time"]) if number + 1 < len(begins) else now
        # A job that Slurm puts back itself has two: as it ended, and as the next attempt has found out why.
        ends = [each for each in events if each.get("event") == "end" and each.get("attempt") == attempt]
        ended = min([float(each["time"]) for each in ends] + [following])
        own = next((each for each in times if began <= each.began <= ended), None)
        running = not ends and number + 1 == len(begins)
        starts.append(
            StartGoodput(
                attempt=attempt,
                queue=max(0.0, began - free) if free is not None else 0.0,
                starting=own.starting + own.began - began if own else 0.0,
                useful=own.steps + own.evaluating if own else 0.0,
                saving=own.saving if own else 0.0,
                lost=0.0 if running else max(0.0, ended - (own.until if own else began)),
                fault=bool(ends) and bool(ends[-1].get("fault")),
                saves=own.saves if own else 0,
                steps=own.steps_taken if own else 0,
            )
        )
        free = ended
    return Goodput(starts)
