"""The plan of a rehearsal: the checks of the run as its cluster makes them, and the two configs that are trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.processes.rank_info import rank_0_elsewhere
from launcher.rehearsal.second_layout import in_second_layout
from launcher.rehearsal.shrink import shrink
from launcher.rehearsal.translation import Change, changes, resumed, translate, with_stages_in_steps
from launcher.run.config import RunConfig
from launcher.run.machine import machine_elsewhere
from launcher.run.preflight import model_with_vocabulary
from launcher.run.start_checks import StartFindings, check_start
from settings.paths import with_absolute_paths


@dataclass(frozen=True)
class Rehearsal:
    """The configs of a rehearsal. Nothing is written yet."""

    config: RunConfig  # the run, with the vocabulary of its shards
    first: RunConfig  # in the layout of the run
    second: RunConfig  # goes on from a checkpoint of the first, in another layout
    changes: list[Change]  # from the run to `first`


def check_for_cluster(config: RunConfig) -> StartFindings:
    """Checks a run as its first rank would on the cluster. Raises UserError for the first mistake.

    GPUs are not asked of this machine: with `train.device` auto or cuda, the cluster is taken to have them.
    """
    ranks = config.parallel.ranks
    machine = machine_elsewhere(gpus=0 if config.train.device == "cpu" else ranks)
    place = rank_0_elsewhere(world_size=ranks, local_world_size=ranks)
    return check_start(_without_memory_snapshot(config), machine, place)


def plan_rehearsal(config: RunConfig, folder: Path, *, most_ranks: int) -> Rehearsal:
    """Plans the rehearsal of a checked run in `folder`. Raises UserError if the layout needs more ranks."""
    model = model_with_vocabulary(config)
    config = with_absolute_paths(with_stages_in_steps(config).model_copy(update={"model": model}))
    first = translate(shrink(config, most_ranks=most_ranks), folder)
    return Rehearsal(config, first, resumed(in_second_layout(first)), changes(config, first))


def _without_memory_snapshot(config: RunConfig) -> RunConfig:
    """Returns the config without the snapshot of a GPU's memory, which this machine may have no GPU for."""
    profile = config.train.profile
    if profile is None:
        return config
    train = config.train.model_copy(update={"profile": profile.model_copy(update={"memory": False})})
    return config.model_copy(update={"train": train})
