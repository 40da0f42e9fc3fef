"""The layouts that could train a step: all combinations of sizes, less those that the checks of a config refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import get_args

from model.config import ModelConfig
from model.recompute import Recompute
from parallel.config import ParallelConfig
from parallel.layout import Workload, layout_problems

LARGEST_MICRO_BATCH = 64
_ZERO_LEVELS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Choice:
    """The values of a config that a plan chooses."""

    parallel: ParallelConfig
    micro_batch_size: int
    recompute: Recompute

    def values(self) -> dict[str, int | bool | str]:
        """Returns the values by their keys in a config."""
        parallel = self.parallel
        return {
            "parallel.tensor": parallel.tensor,
            "parallel.pipeline": parallel.pipeline,
            "parallel.virtual_stages": parallel.virtual_stages,
            "parallel.data": parallel.data,
            "parallel.zero": parallel.zero,
            "parallel.sequence": parallel.sequence,
            "train.micro_batch_size": self.micro_batch_size,
            "train.recompute": self.recompute,
        }

    def texts(self) -> dict[str, str]:
        """Returns the values by their keys as an override writes them."""
        return {key: str(value).lower() for key, value in self.values().items()}


@dataclass(frozen=True)
class Refusals:
    """The combinations that break rules about one key."""

    count: int
    example: str  # the message of the first one


@dataclass
class Candidates:
    """The choices that can be, and those that are refused, by the key of the first rule that each breaks."""

    possible: list[Choice] = field(default_factory=list)
    refused: dict[str, Refusals] = field(default_factory=dict)

    def refuse(self, problem: str) -> None:
        """Counts a combination with the message of the first rule that it breaks."""
        key = problem.partition(" = ")[0].removeprefix("with ")
        known = self.refused.get(key, Refusals(0, problem))
        self.refused[key] = Refusals(known.count + 1, known.example)


def enumerate_choices(
    base: ParallelConfig,
    model: ModelConfig,
    *,
    gpus: int,
    seq_length: int,
    global_batch_size: int,
    needs_full_matrices: str | None,
    other_rule: Callable[[ParallelConfig], str | None] = lambda parallel: None,
) -> Candidates:
    """Enumerates tensor, pipeline, virtual stages, data, ZeRO, sequence, micro-batch and recomputation.

    Only divisors are tried: of the GPUs and of a data rank's rows, since all else is refused, and of a stage's layers,
    since chunks of unequal length wait for each other. `LARGEST_MICRO_BATCH` is the most rows of a micro-batch.
    ZeRO 0 and 1 are the same on one data rank, and so are sequence parallelism and none on one tensor rank: one of them
    is taken. `base` gives what is not chosen (offload). `other_rule` returns which rule of the config's other sections
    a layout breaks, or None.
    """
    found = Candidates()
    for parallel in _layouts(base, model, gpus):
        rows = global_batch_size // parallel.data
        for micro_batch_size in _divisors(rows, LARGEST_MICRO_BATCH) or [1]:
            work = Workload(
                world_size=gpus,
                seq_length=seq_length,
                micro_batch_size=micro_batch_size,
                global_batch_size=global_batch_size,
                needs_full_matrices=needs_full_matrices,
            )
            problem = next(iter(layout_problems(parallel, model, work)), None) or other_rule(parallel)
            if problem is not None:
                found.refuse(problem)
                continue
            found.possible += [Choice(parallel, micro_batch_size, level) for level in get_args(Recompute)]
    return found


def _layouts(base: ParallelConfig, model: ModelConfig, gpus: int) -> Iterator[ParallelConfig]:
    for tensor in _divisors(gpus, model.num_heads):
        for pipeline in _divisors(gpus // tensor, model.num_layers):
            data = gpus // (tensor * pipeline)
            per_stage = model.num_layers // pipeline if model.num_layers % pipeline == 0 else 1
            for virtual_stages in _divisors(per_stage, per_stage) if pipeline > 1 else [1]:
                for zero in _ZERO_LEVELS if data > 1 else (base.zero if base.zero < 2 else 1,):
                    for sequence in (False, True) if tensor > 1 else (False,):
                        yield base.model_copy(
                            update={
                                **{"tensor": tensor, "pipeline": pipeline, "virtual_stages": virtual_stages},
                                **{"data": data, "zero": zero, "sequence": sequence},
                            }
                        )


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]
