"""The folder of a ladder: ladder.yaml with the rungs and the target, and base.yaml, the config that they change.

LADDER/ladder.yaml     the plan; it may be edited before the runs
LADDER/base.yaml       the config that it was made from
LADDER/runs.jsonl      a line for each finished run, and runs/ with their folders
LADDER/fit.json        the law, and fit.png
LADDER/register.json   the registered forecast, and target.yaml, which trains the target with it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from launcher.run.config import RunConfig, load_run_config
from launcher.sweep.points import Sweep, point_of
from laws.size_rules.base import SIZE_RULES, SizeRule
from settings import Settings, UserError, parse, read_yaml, to_yaml
from settings.files import output_of_user, write_text
from settings.paths import with_absolute_paths

RUNG = "rung"  # the key of a rung's name in the file of finished runs


class Rung(Settings):
    """One size and length."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    parameters: int = Field(gt=0, description="all parameters of the model, with embedding and head")
    tokens: int = Field(gt=0, description="of the run")
    flops: float = Field(gt=0, description="of the run, as MFU counts them")
    keys: dict[str, Any] = Field(description="what it changes in base.yaml")

    def overrides(self) -> list[str]:
        """Returns the changes as overrides."""
        return [f"{key}={json.dumps(value)}" for key, value in self.keys.items()]


class LadderPlan(Settings):
    """The content of ladder.yaml."""

    format: Literal[1] = 1
    rule: Annotated[SizeRule, SIZE_RULES.field] = Field(description="how lr, batch and weight decay go with size")
    seeds: int = Field(1, ge=1, description="runs of each rung, with seeds from run.seed on")
    rungs: tuple[Rung, ...] = Field(min_length=1)
    target: Rung


@dataclass(frozen=True)
class Ladder:
    """A ladder on disk."""

    folder: Path
    plan: LadderPlan

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.folder / "ladder.yaml"

    @property
    def base(self) -> Path:
        """The config that the rungs change."""
        return self.folder / "base.yaml"

    @property
    def records(self) -> Path:
        """The file of finished runs."""
        return self.folder / "runs.jsonl"

    @property
    def fit(self) -> Path:
        """The fit file."""
        return self.folder / "fit.json"

    @property
    def register(self) -> Path:
        """The registered forecast."""
        return self.folder / "register.json"

    @property
    def target(self) -> Path:
        """The config of the target, with the registered forecast."""
        return self.folder / "target.yaml"

    def config_of(self, rung: Rung) -> RunConfig:
        """Returns the config of a rung or of the target. Raises UserError with the name of the rung."""
        try:
            return load_run_config(self.base, rung.overrides())
        except UserError as error:
            raise UserError(f"{self.plan_file}: {rung.name}: {error}") from None

    def sweep(self) -> Sweep:
        """Returns the runs of all rungs and seeds. Raises UserError for two rungs of one name or one config."""
        names = [rung.name for rung in self.plan.rungs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{self.plan_file}: several rungs are called {', '.join(twice)}; give each its own name")
        folder = self.folder / "runs"
        points = []
        for rung in self.plan.rungs:
            config = self.config_of(rung)
            seeds = range(config.run.seed, config.run.seed + self.plan.seeds)
            points += [point_of(config, {RUNG: rung.name}, seed, folder) for seed in seeds]
        seen: dict[str, str] = {}
        for point in points:
            if point.digest in seen:
                raise UserError(f"{self.plan_file}: {seen[point.digest]} and {point.label} are the same run")
            seen[point.digest] = point.label
        return Sweep(folder, (), tuple(points))

    def write_target(self) -> None:
        """Writes the config of the target with the registered forecast. Raises UserError if that fails."""
        config = self.config_of(self.plan.target)
        train = config.train.model_copy(update={"forecast": self.register})
        with output_of_user(self.target):
            write_text(self.target, to_yaml(with_absolute_paths(config.model_copy(update={"train": train}))))

    def write(self, base: RunConfig) -> None:
        """Writes base.yaml and then ladder.yaml. Raises UserError if that fails."""
        with output_of_user(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.base, to_yaml(with_absolute_paths(base)))
            write_text(self.plan_file, to_yaml(self.plan))


def read_ladder(folder: Path) -> Ladder:
    """Reads a ladder. Raises UserError if the folder holds none."""
    path = folder / "ladder.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} is no ladder: it has no ladder.yaml; `lehr ladder plan CONFIG -o {folder}` makes one"
        )
    return Ladder(folder, parse(LadderPlan, read_yaml(path), source=str(path)))
