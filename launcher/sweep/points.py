"""The points of a sweep: each is a whole run config, with a folder and a hash of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.config import RunConfig, load_run_config
from launcher.run.input_hashes import inputs_of
from launcher.sweep.grid import Axis, combinations
from settings import Settings, UserError
from settings.declarations import MAY_MOVE, declared
from settings.differences import flatten
from train.run_folder.input_hashes import Inputs

_SUFFIX = "-sweep"
_MOST_NAME_CHARACTERS = 120
_DATA_KEYS = ("data.mixture", "data.document_masking")  # the shards count by their hashes
_NOT_HASHED = ("run.name", "run.folder", "checkpoint")


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
            points.append(_point(base, values, seed, folder))
    _check_distinct(points)
    return Sweep(folder, tuple(axes), tuple(points))


def config_digest(config: RunConfig, inputs: Inputs | None = None) -> str:
    """Returns a hash of all that decides the losses of a run: its resolved config, and the hashes of what it reads.

    `inputs` are these hashes, for a caller who has recorded them; by default they are read from the shards. Names,
    places and checkpoints are left out, and so is every key at its default: a key that a later version of lehr adds
    changes no hash.
    """
    plain = config.to_plain()
    keys = {
        key: value
        for key, value in flatten(without_defaults(config)).items()
        if (key.startswith(_DATA_KEYS) or not key.startswith(("data.", *_NOT_HASHED)))
        and declared(RunConfig, key, plain, MAY_MOVE) is None
    }
    content = json.dumps([keys, (inputs or inputs_of(config)).to_plain()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _point(base: RunConfig, values: Mapping[str, str], seed: int, folder: Path) -> Point:
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


def without_defaults(settings: Settings) -> dict[str, Any]:
    """Returns the values that differ from the class's defaults; a method keeps its name."""
    plain, kept = settings.to_plain(), {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name != "name" and value == field.get_default(call_default_factory=True):
            continue
        kept[name] = _plain_without_defaults(value, plain[name])
    return kept


def _plain_without_defaults(value: object, plain: Any) -> Any:
    if isinstance(value, Settings):
        return without_defaults(value)
    if isinstance(value, tuple) and any(isinstance(item, Settings) for item in value):
        return [_plain_without_defaults(*pair) for pair in zip(value, plain, strict=True)]
    return plain
