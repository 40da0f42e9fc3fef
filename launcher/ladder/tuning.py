"""The best runs of sweeps of `lehr sweep`, for a size rule to be refitted from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.ladder.rungs import tuned_run
from launcher.run.config import RunConfig, load_run_config
from launcher.run.config_digest import config_digest, decisive_keys
from launcher.run.preflight import model_with_vocabulary
from launcher.sweep.records import read_records
from laws.size_rules.base import TunedRun
from laws.size_rules.optimum import SweptRun, best_values
from settings import UserError

_TUNED = ("lr", "batch_tokens", "weight_decay")
# What a sweep of these changes in a config: at another batch, equal tokens take other steps.
_OF_RECIPE = ("optim.lr", "optim.weight_decay", "train.global_batch_size", "train.micro_batch_size", "run.seed")
_MAY_DIFFER = (*_OF_RECIPE, "train.steps", "evaluate.every_steps", "schedule.")
_SAME_LENGTH = 1.02  # ratio of tokens: steps and rows are whole numbers


@dataclass(frozen=True)
class _Run:
    config: RunConfig
    tuned: TunedRun
    loss: float


def tuned_runs(folders: Sequence[Path], records: Path | None = None) -> tuple[list[TunedRun], frozenset[str]]:
    """Returns the best run of each size and length among sweeps' folders, the smallest first, and what all tuned.

    `records`: the file of finished runs, if it is not in the folders. The best lr, batch and weight decay lie between
    values that were tried. Sweeps of several batches of one size and length are folders of their own, since equal
    tokens take other steps. Raises UserError for runs of one size and length that differ in more, and for a best value
    at the edge of what was tried.
    """
    groups: list[list[_Run]] = []
    for run in (run for folder in folders for run in _finished(folder, records)):
        group = next((group for group in groups if _are_alike(group[0].tuned, run.tuned)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    swept = frozenset.intersection(*(_swept(group) for group in groups))
    return sorted((_best(group) for group in groups), key=lambda run: run.parameters * run.tokens), swept


def _finished(folder: Path, records: Path | None) -> list[_Run]:
    known = read_records(records or folder / "runs.jsonl")
    configs = {config_digest(config): config for config in map(load_run_config, (folder / "configs").glob("*.yaml"))}
    runs = [
        _Run(config, tuned_run(config, model_with_vocabulary(config)), record.loss)
        for digest, record in known.items()
        if (config := configs.get(digest)) is not None and record.loss is not None
    ]
    if not runs:
        raise UserError(
            f"--tuned {folder}: holds no finished run with its config; give the folder of a `lehr sweep`, with its "
            "runs.jsonl and its configs"
        )
    return runs


def _are_alike(one: TunedRun, other: TunedRun) -> bool:
    return one.parameters == other.parameters and abs(math.log(one.tokens / other.tokens)) < math.log(_SAME_LENGTH)


def _best(runs: Sequence[_Run]) -> TunedRun:
    first = runs[0]
    name = f"--tuned: {first.tuned.parameters:,.0f} parameters, {first.tuned.tokens:,.0f} tokens"
    there = decisive_keys(first.config)
    for run in runs[1:]:
        here = decisive_keys(run.config)
        differing = sorted(key for key in there.keys() | here if there.get(key) != here.get(key))
        if other := [key for key in differing if not key.startswith(_MAY_DIFFER)]:
            raise UserError(
                f"{name}: the sweeps differ in {', '.join(other)}; a rule is refitted from lr, batch and decay"
            )
    swept = sorted(_swept(runs))
    if not swept:
        raise UserError(f"{name}: there is one lr and one batch only; add a sweep of optim.lr")
    tried = [SweptRun({key: getattr(run.tuned, key) for key in swept}, run.loss) for run in runs]
    return TunedRun(**{**vars(first.tuned), **best_values(tried, name=name)})


def _swept(runs: Sequence[_Run]) -> frozenset[str]:
    """Returns what differs between the runs of one size and length."""
    return frozenset(key for key in _TUNED if len({getattr(run.tuned, key) for run in runs}) > 1)
