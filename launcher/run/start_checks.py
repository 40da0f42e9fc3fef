"""The checks of a run before it starts: its config with all files that it names, its folder, and this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.run.branching import check_branch
from launcher.run.config import RunConfig
from launcher.run.held_out_sequences import held_out_warnings
from launcher.run.input_hashes import inputs_of
from launcher.run.machine import Machine, memory_warnings, precision_warnings
from launcher.run.preflight import check_config, left_out_sources, model_with_vocabulary, repeated_data
from launcher.run.schedule_change import schedule_change_warnings
from launcher.run.schedule_phases import phase_notes, phases_on_record, schedule_with, with_phases
from train.run_folder.resume_check import check_run

if TYPE_CHECKING:
    from launcher.processes.rank_info import RankInfo


@dataclass(frozen=True)
class StartFindings:
    """What a user should know about a run that can start, a line each."""

    notes: list[str]
    warnings: list[str]


def check_start(config: RunConfig, machine: Machine, rank_info: RankInfo | None = None) -> StartFindings:
    """Checks everything but the machine's devices (`check_machine`) and the bytes of the shards.

    `rank_info`: this process's place if torchrun or srun started it. Raises UserError for the first mistake.
    """
    world_size = config.parallel.ranks if rank_info is None else rank_info.world_size
    phases = phases_on_record(config)
    filled = with_phases(config, phases)
    warnings = check_config(filled, world_size=world_size)
    warnings += check_branch(filled, lambda each: schedule_with(phases, each))
    check_run(config.run.path, config, inputs_of(config), schedule_of=lambda each: schedule_with(phases, each))
    warnings += [*schedule_change_warnings(config, phases), *held_out_warnings(config)]
    warnings += precision_warnings(config, machine)
    warnings += memory_warnings(config, model_with_vocabulary(config), machine, rank_info)
    notes, more_warnings = repeated_data(config)
    notes = [*phase_notes(config, phases), *left_out_sources(config), *notes]
    return StartFindings(notes, warnings + more_warnings)
