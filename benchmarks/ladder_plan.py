"""The runs of ladder_proof.py, which were fixed before the first of them was trained.

1. Two sweeps of the lr, at the size of the config and at a smaller one, refit the size rule.
2. The ladder is planned from the config by that rule, trained, fitted and registered, and then the target is trained.
3. At the size of the config, the lr of the default (its schedule and batch) and that of the laws' choice are tuned
   with equally many runs, and both are compared over SEEDS.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.run.config import RunConfig, load_run_config
from laws.fitting.fitted import Fit
from laws.schedule_search.candidate import Constraints
from laws.schedule_search.search import search
from laws.size_rules.base import TunedRun
from laws.size_rules.power import PowerConfig

TARGET_PARAMETERS, TARGET_TOKENS = 1.0e6, 20.0e6
BUDGET = 1.8e13  # FLOPs of the ladder, all seeds
LADDER_SEEDS = 2
SIZES, SPACING = 4, 1.8
MOST_FLOPS = 4e12  # of a rung
LEAST_RATIO = 30.0  # of the target to the largest rung
SMALL = ("model.hidden_size=32", "model.ffn_size=88", "train.steps=1080", "train.global_batch_size=6")
SMALL = (*SMALL, "train.micro_batch_size=6", "schedule.warmup_steps=54", "evaluate.every_steps=27")
LRS = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
MOST_SWEEPS = 4  # of a size: each adds an lr at the edge where the best one was
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the lr of the default, and of that of the laws' choice
SEEDS = 3
DEFAULT, CHOSEN = "default", "chosen"  # the arms of the comparison
WARMUP_DIVISOR, LEAST_OF_PEAK = 20, 0.025  # of the laws' schedule, as in the config
# What was asked, before any run.
LAST_LOSS_WITHIN, CURVE_WITHIN, DEVIATIONS = 0.005, 0.01, 2.0


@dataclass(frozen=True)
class Plan:
    """The plan for one config, with the folder of its runs; a test makes the lengths shorter."""

    config: Path
    overrides: tuple[str, ...]
    folder: Path
    target: float = TARGET_PARAMETERS
    tokens: float = TARGET_TOKENS
    budget: float = BUDGET
    sizes: int = SIZES
    spacing: float = SPACING
    ladder_seeds: int = LADDER_SEEDS
    small: tuple[str, ...] = SMALL
    lrs: tuple[float, ...] = LRS
    factors: tuple[float, ...] = FACTORS
    seeds: int = SEEDS

    @property
    def ladder(self) -> Path:
        """The folder of the ladder."""
        return self.folder / "ladder"

    @property
    def base(self) -> RunConfig:
        """The config as it is."""
        return load_run_config(self.config, self.overrides)

    def sweep(self, name: str, *overrides: str) -> list[str]:
        """Returns the arguments of a sweep in a folder of its own; its grid follows."""
        own = [*self.overrides, *overrides, f"run.folder={self.folder}", f"run.name={name}"]
        return ["sweep", str(self.config), *own]

    def sweep_folder(self, name: str) -> Path:
        """Returns the folder of a sweep."""
        return self.folder / f"{name}-sweep"

    def plan_arguments(self, runs: Path) -> list[str]:
        """Returns the arguments of `lehr ladder plan`. `runs`: the file of finished runs."""
        options = {
            "--target": self.target,
            "--tokens": self.tokens,
            "--budget": self.budget,
            "--sizes": self.sizes,
            "--spacing": self.spacing,
            "--seeds": self.ladder_seeds,
        }
        words = [word for option, value in options.items() for word in (option, f"{value:g}")]
        tuned = [word for name in ("small", "base") for word in ("--tuned", str(self.sweep_folder(name)))]
        return [
            "ladder",
            "plan",
            str(self.config),
            *self.overrides,
            *words,
            *tuned,
            "--runs",
            str(runs),
            "-o",
            str(self.ladder),
        ]


@dataclass(frozen=True)
class Arm:
    """A schedule, a batch, and the lr around which it is tuned."""

    lr: float
    overrides: tuple[str, ...] = ()

    def lrs(self, factors: Sequence[float]) -> list[str]:
        """Returns the lr times each factor, as texts of overrides."""
        return [f"{self.lr * factor:g}" for factor in factors]


def default_arm(base: RunConfig) -> Arm:
    """Returns the default: the schedule, the batch and the lr of the config."""
    return Arm(base.optim.lr)


def chosen_arm(base: RunConfig, small: TunedRun, size: float, fit: Fit) -> Arm:
    """Returns the laws' choice.

    Lr and batch are those of the published powers from the smaller size alone; the schedule is the best registered one
    by the law that was fitted to the ladder.
    """
    train = base.train
    tokens = float(train.steps * train.global_batch_size * train.seq_length)
    recipe = PowerConfig().run(small, parameters=size, tokens=tokens)
    rows = max(1, round(recipe.batch_tokens / train.seq_length))
    steps = round(tokens / (rows * train.seq_length))
    lr = float(f"{recipe.lr:.3g}")  # three digits, as a config has: another machine then finds the same run
    limits = Constraints(
        peak_lr=lr,
        warmup_steps=max(1, steps // WARMUP_DIVISOR),
        min_lr=float(f"{LEAST_OF_PEAK * lr:.3g}"),
        free_form=False,
        parameters=size,
    )
    best = search(fit, steps=steps, constraints=limits)[0]
    overrides = (
        f"schedule={json.dumps(best.section)}",
        f"train.steps={steps}",
        f"train.global_batch_size={rows}",
        f"train.micro_batch_size={rows}",
        f"evaluate.every_steps={max(1, steps // 40)}",
    )
    return Arm(lr, overrides)
