"""The points of a sweep: each is a whole run config, with a folder and a hash of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.run.config import RunConfig, load_run_config
from launcher.run.config_digest import config_digest
from launcher.sweep.grid import Axis, combinations
from settings import UserError

_SUFFIX = "-sweep"
_MOST_NAME_CHARACTERS = 120


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    values: Mapping[str, str]  # of the grid's keys, as they were written
    seed: int
    config: RunConfig
    digest: str  # of the config, see `config_digest`

    @property
    def name(self) -> str:
        """The name of the run, and of its folder within the sweep's."""
        return self.config.run.name

    @property
    def label(self) -> str:
        """The point for a reader: `optim.lr=1e-3, seed 2`."""
        return ", ".join([*(f"{key}={value}" for key, value in self.values.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Sweep:
    """The points, and the folder in which their run folders lie."""

    folder: Path
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]


def plan_sweep(path: Path, overrides: Sequence[str], axes: Sequence[Axis], *, seeds: int) -> Sweep:
    """Returns the sweep of the config `path`: every combination of the axes' values, with `seeds` seeds from run.seed.

    Raises UserError for an override of an axis's key, for a point whose config has a mistake or no shards, and for two
    points of the same config.
    """
    for key in (axis.key for axis in axes):
        if override := next((each for each in overrides if each.partition("=")[0].strip() == key), None):
            raise UserError(
                f"{override} and --grid {key}=... set the same key: give all values to one --grid, with commas between"
            )
    points: list[Point] = []
    folder = Path()
    for values in combinations(axes):
        own = [*overrides, *(f"{key}={value}" for key, value in values.items())]
        base = load_run_config(path, own)
        folder = base.run.folder / f"{base.run.name}{_SUFFIX}"
        for seed in range(base.run.seed, base.run.seed + seeds):
            points.append(point_of(base, values, seed, folder))
    _check_distinct(points)
    return Sweep(folder, tuple(axes), tuple(points))


def point_of(base: RunConfig, values: Mapping[str, str], seed: int, folder: Path) -> Point:
    """Returns the run of a config and a seed, in a folder within `folder` that is named after `values`."""
    run = base.run.model_copy(update={"seed": seed, "folder": folder})
    config = base.model_copy(update={"run": run})
    digest = config_digest(config)
    words = [f"{short}-{value}" for short, value in zip(_short_keys(values), values.values(), strict=True)]
    # The hash keeps apart what looks alike, and the runs of a config that was changed between two sweeps.
    text = "_".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("._-") for word in [*words, f"seed-{seed}"])
    name = f"{text[:_MOST_NAME_CHARACTERS]}_{digest[:8]}"
    return Point(values, seed, config.model_copy(update={"run": run.model_copy(update={"name": name})}), digest)


def _short_keys(keys: Mapping[str, str]) -> Iterator[str]:
    """Yields the last parts of the keys, such as `lr` for `optim.lr`, or the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    for key, short in zip(keys, last, strict=True):
        yield key if last.count(short) > 1 else short


def _check_distinct(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        if point.digest in seen:
            raise UserError(f"the points {seen[point.digest].label} and {point.label} are the same run; leave one out")
        seen[point.digest] = point
