"""The arms of continual_proof.py, which were fixed before the first of them was trained.

Every arm begins from a trunk: the old data alone, for OLD_STEPS steps, with one seed. So arms of a seed have the same
past to the bit, and their differences are paired. All end at the same lr, that of the config's `schedule.min_lr`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.config import RunConfig, load_run_config

Plain = dict[str, Any]
SEEDS = (1, 2, 3)
OLD_STEPS, NEW_STEPS, SCARCE_STEPS = 800, 400, 200
WARMUP_STEPS = 20  # of a re-warming
REPLAY_PERCENT = (0, 1, 5, 25, 50)
PEAKS = (0.25, 0.5, 2.0)  # times the peak of the trunk, besides the peak itself
PEAK_REPLAY_PERCENT = 25
OLD, STRONG, WEAK, SCARCE = "prose", "french", "english", "scarce"
COSINE, INFINITE, UNION = "cosine", "infinite", "union"  # trunks: the first two are named as their schedules


@dataclass(frozen=True)
class Arm:
    """One arm: what follows on a trunk."""

    name: str
    group: str
    new: str  # the source that the arm adapts to
    steps: int = NEW_STEPS
    replay_percent: int = 0
    peak: float = 1.0  # of the re-warming, times that of the trunk
    trunk: str = COSINE
    rewarms: bool = True
    seeds: tuple[int, ...] = SEEDS


def _arms() -> Iterator[Arm]:
    for percent in REPLAY_PERCENT:
        yield Arm(f"rewarm-{percent}", "re-warm", STRONG, replay_percent=percent)
    for percent in (0, 25):
        yield Arm(f"infinite-{percent}", "infinite", STRONG, replay_percent=percent, trunk=INFINITE, rewarms=False)
    for percent in (0, 25):
        yield Arm(f"flat-{percent}", "no re-warm", STRONG, replay_percent=percent, rewarms=False)
    for percent in (0, 5):
        yield Arm(f"weak-{percent}", "weak shift", WEAK, replay_percent=percent)
    yield Arm("old-alone", "re-warm on the old data alone", OLD)
    yield Arm("union", "union from the start", STRONG, trunk=UNION, rewarms=False)
    for percent in (0, 20, 50):  # the tokens of the target stay, and replay comes on top
        steps = round(SCARCE_STEPS / (1 - percent / 100))
        yield Arm(f"scarce-{percent}", "scarce target", SCARCE, steps=steps, replay_percent=percent)
    for peak in PEAKS:
        name = f"peak-{peak:g}"
        yield Arm(name, "peak", STRONG, replay_percent=PEAK_REPLAY_PERCENT, peak=peak, seeds=SEEDS[:1])


ARMS = tuple(_arms())


@dataclass(frozen=True)
class Sizes:
    """The lengths of the plan: a test divides them."""

    divisor: int = 1

    def steps(self, steps: int) -> int:
        """Returns a number of steps in this plan."""
        return max(steps // self.divisor, 4)


@dataclass(frozen=True)
class Plan:
    """The plan for one config, with the folder of its runs."""

    config: Path
    overrides: tuple[str, ...]
    folder: Path
    arms: tuple[Arm, ...] = ARMS
    sizes: Sizes = Sizes()

    @property
    def base(self) -> RunConfig:
        """The config as it is: one stage of old data."""
        return load_run_config(self.config, [*self.overrides, *self.trunk_overrides(COSINE, SEEDS[0])])

    @property
    def old_steps(self) -> int:
        """The steps of a trunk."""
        return self.sizes.steps(OLD_STEPS)

    def shared_overrides(self, seed: int) -> list[str]:
        """Returns what all runs of a seed set."""
        return [*self.overrides, f"run.seed={seed}", f"run.folder={self.folder}"]

    def trunk_overrides(self, trunk: str, seed: int) -> list[str]:
        """Returns the overrides of a trunk: old data, with the schedule of its arms."""
        return [
            *self.shared_overrides(seed),
            f"run.name=trunk-{trunk}",
            f"train.steps={self.old_steps}",
            *self._schedule(trunk, end=self.old_steps),
        ]

    def arm_overrides(self, trunk: str, seed: int, parent: Path | None) -> list[str]:
        """Returns what the arms of a trunk and a seed share; their stages are an axis of the grid."""
        branch = [] if parent is None else [f"branch.run={parent}", f"branch.step={self.old_steps}"]
        end = self.old_steps + round(0.75 * self.sizes.steps(NEW_STEPS))  # the infinite schedule's anneal begins
        return [*self.shared_overrides(seed), f"run.name=arms-{trunk}", *branch, *self._schedule(trunk, end=end)]

    def stages(self, arm: Arm) -> str:
        """Returns the stages of an arm, as one value of a grid; the last one has the name of the arm."""
        steps = self.sizes.steps(arm.steps)
        if arm.trunk == UNION:  # the same tokens of each as one after the other
            mixture = {OLD: self.old_steps, arm.new: steps}
            return _text([{"name": arm.name, "steps": self.old_steps + steps, "mixture": mixture}])
        new: Plain = {"name": arm.name, "steps": steps, "mixture": {arm.new: 1}}
        if arm.replay_percent:
            new["replay"] = {"share": arm.replay_percent / 100}
        peak_lr, min_lr = self._lrs()
        if arm.rewarms:
            warmup_steps = min(WARMUP_STEPS, steps // 2)
            new["schedule"] = {"name": "cosine", "warmup_steps": warmup_steps, "min_lr": min_lr}
            new["lr"] = arm.peak * peak_lr
        elif arm.trunk == COSINE:
            new["schedule"], new["lr"] = {"name": "constant"}, min_lr
        return _text([{"name": "old", "steps": self.old_steps, "mixture": {OLD: 1}}, new])

    def _schedule(self, trunk: str, *, end: int) -> list[str]:
        """Returns the schedule of a trunk and its arms; the infinite one is constant up to the step `end`."""
        warmup_steps = max(self.old_steps // 20, 1)
        if trunk != INFINITE:
            return [f"schedule.warmup_steps={warmup_steps}"]
        _, min_lr = self._lrs()
        plain = {"name": "infinite", "warmup_steps": warmup_steps, "min_lr": min_lr}
        plain |= {"cooldown_end_step": max(self.old_steps // 4, warmup_steps), "constant_end_step": end}
        return [f"schedule={json.dumps(plain)}"]

    def _lrs(self) -> tuple[float, float]:
        """Returns the peak and the last lr of the config."""
        config = load_run_config(self.config, [*self.overrides, f"train.steps={OLD_STEPS}"])
        return config.optim.lr, float(config.schedule.to_plain()["min_lr"])


def arm_of(point: dict[str, str]) -> str:
    """Returns the name of the arm of a recorded point: that of its last stage; a trunk has none."""
    return "" if "stages" not in point else str(json.loads(point["stages"])[-1]["name"])


def _text(stages: list[Plain]) -> str:
    return json.dumps(stages)
