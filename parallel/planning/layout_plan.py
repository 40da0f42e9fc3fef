"""A plan: every layout that can be and fits into memory, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from parallel.config import ParallelConfig
from parallel.planning.candidates import Choice, Refusals, enumerate_choices
from parallel.planning.machine_file import MachineConfig
from parallel.planning.memory import RankMemory, rank_memory
from parallel.planning.shape import StepShape
from parallel.planning.step_time import StepTime, mfu, step_time
from settings import UserError

DEFAULT_HEADROOM = 0.1  # of the memory: for the allocator, temporary buffers, NCCL and document masks


@dataclass(frozen=True)
class PlannedLayout:
    """One layout with its memory, its time and its MFU."""

    choice: Choice
    step: StepShape
    memory: RankMemory
    time: StepTime
    mfu: float

    @property
    def seconds(self) -> float:
        """The time of a step."""
        return self.time.total

    @property
    def tokens_per_second(self) -> float:
        """The tokens that all ranks together train on in a second."""
        return self.step.global_tokens / self.seconds


@dataclass(frozen=True)
class Plan:
    """All layouts that can be, with those that do not fit apart. Both are sorted, the fastest first."""

    machine: MachineConfig
    headroom: float
    fitting: tuple[PlannedLayout, ...]
    too_large: tuple[PlannedLayout, ...]
    refused: Mapping[str, Refusals]

    @property
    def best(self) -> PlannedLayout:
        """The fastest layout that fits."""
        return self.fitting[0]

    @property
    def limit_bytes(self) -> float:
        """The memory that the fullest rank may need."""
        return _limit(self.machine, self.headroom)

    def with_machine(self, machine: MachineConfig, *, most: int = 400) -> PlannedLayout | None:
        """Returns the layout that would be the first on another machine; None if none fits there.

        Of those that fit there, only the `most` that are the fastest on the machine of this plan are timed again.
        """
        limit = _limit(machine, self.headroom)
        within = [one for one in (*self.fitting, *self.too_large) if one.memory.device <= limit]
        nearest = sorted(within, key=_order)[:most]
        return min((_timed(one.choice, one.step, machine, one.memory) for one in nearest), key=_order, default=None)


def make_plan(
    step: StepShape,
    machine: MachineConfig,
    *,
    gpus: int,
    parallel: ParallelConfig,
    needs_full_matrices: str | None = None,
    other_rule: Callable[[ParallelConfig], str | None] = lambda parallel: None,
    kept: Mapping[str, object] | None = None,
    headroom: float = DEFAULT_HEADROOM,
) -> Plan:
    """Plans a step on `gpus` GPUs of a machine. `parallel` gives what a plan does not choose, such as offload.

    `other_rule`: as `enumerate_choices` takes it. `kept`: keys of the config, as `Choice.values` has them, whose values
    stay. Raises UserError if no layout can be.
    """
    found = enumerate_choices(
        parallel,
        step.model,
        gpus=gpus,
        seq_length=step.seq_length,
        global_batch_size=step.global_batch_size,
        needs_full_matrices=needs_full_matrices,
        other_rule=other_rule,
    )
    wanted = kept or {}
    choices = [one for one in found.possible if all(one.values()[key] == value for key, value in wanted.items())]
    if not choices:
        raise UserError(_no_layout(step, gpus, found.refused, wanted))
    planned = sorted((plan_layout(choice, step, machine) for choice in choices), key=_order)
    limit = _limit(machine, headroom)
    return Plan(
        machine=machine,
        headroom=headroom,
        fitting=tuple(one for one in planned if one.memory.device <= limit),
        too_large=tuple(one for one in planned if one.memory.device > limit),
        refused=found.refused,
    )


def plan_layout(choice: Choice, step: StepShape, machine: MachineConfig) -> PlannedLayout:
    """Returns the memory and the time of one layout that can be. `step` gives what a plan does not choose."""
    changed = step.with_layout(choice.parallel, micro_batch_size=choice.micro_batch_size, recompute=choice.recompute)
    return _timed(choice, changed, machine, rank_memory(changed, machine))


def best_of_each(layouts: Iterable[PlannedLayout]) -> list[PlannedLayout]:
    """Returns the fastest for each tensor, pipeline and ZeRO, in the order of the layouts."""
    seen: dict[tuple[int, int, int], PlannedLayout] = {}
    for one in layouts:
        parallel = one.choice.parallel
        seen.setdefault((parallel.tensor, parallel.pipeline, parallel.zero), one)
    return list(seen.values())


def with_figures(machine: MachineConfig, **times: float) -> MachineConfig:
    """Returns the machine with some figures multiplied, such as `between_bandwidth=0.5`."""
    changes = {}
    for name, factor in times.items():
        figure = getattr(machine, name)
        changes[name] = figure.model_copy(update={"value": figure.value * factor})
    return machine.model_copy(update=changes)


def _timed(choice: Choice, step: StepShape, machine: MachineConfig, memory: RankMemory) -> PlannedLayout:
    time = step_time(step, machine)
    return PlannedLayout(choice, step, memory, time, mfu(step, time.total, machine))


def _limit(machine: MachineConfig, headroom: float) -> float:
    return (1 - headroom) * machine.memory_bytes.value


def _order(one: PlannedLayout) -> tuple[float, int]:
    return one.seconds, one.memory.device


def _no_layout(step: StepShape, gpus: int, refused: Mapping[str, Refusals], kept: Mapping[str, object]) -> str:
    held = "".join(f" with {key}={value}" for key, value in kept.items())
    lines = [
        f"no layout of {gpus} GPUs can be{held}, for train.global_batch_size = {step.global_batch_size}; rules that "
        "refuse layouts, an example of each:"
    ]
    return "\n".join([*lines, *(f"  {one.example}" for one in refused.values())])
