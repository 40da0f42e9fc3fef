"""Checks layouts before any process starts; an impossible one is refused with the numbers and the nearest possible."""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.config import ModelConfig
from parallel.config import ParallelConfig
from settings import UserError


@dataclass(frozen=True)
class Workload:
    """The numbers of a run that a layout must fit."""

    world_size: int
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    needs_full_matrices: str | None = None  # the setting that does, if one does: "optim.name = conda"


def check_layout(parallel: ParallelConfig, model: ModelConfig, work: Workload) -> None:
    """Raises UserError with one line per broken rule, and the nearest layouts on as many ranks that break none."""
    problems = layout_problems(parallel, model, work)
    if not problems:
        return
    lines = ["this layout cannot be:", *(f"  {problem}" for problem in problems)]
    near = nearest_layouts(parallel, model, work)
    if near:
        lines.append(f"  nearest that can, on {work.world_size} rank{'s' if work.world_size > 1 else ''}:")
        lines += [f"    {describe(layout, work)}" for layout in near]
    raise UserError("\n".join(lines))


def layout_problems(parallel: ParallelConfig, model: ModelConfig, work: Workload) -> list[str]:
    """Returns every rule that the layout breaks, as `key = value` and the rule."""
    problems = []
    tensor, pipeline, virtual = parallel.tensor, parallel.pipeline, parallel.virtual_stages
    if work.world_size % (tensor * pipeline):
        problems.append(
            f"parallel.tensor = {tensor} x parallel.pipeline = {pipeline} must divide the number of ranks, "
            f"{work.world_size}"
        )
    problems += _tensor_problems(parallel, model, work)
    if pipeline * virtual > model.num_layers:
        problems.append(
            f"parallel.pipeline = {pipeline} x parallel.virtual_stages = {virtual} must be at most "
            f"model.num_layers = {model.num_layers}"
        )
    data = max(1, work.world_size // (tensor * pipeline))
    rows = data * work.micro_batch_size
    if work.global_batch_size % rows:
        problems.append(
            f"train.global_batch_size = {work.global_batch_size} must be divisible by train.micro_batch_size = "
            f"{work.micro_batch_size} x {data} data rank{'s' if data > 1 else ''}; "
            f"{_nearest_multiples(work.global_batch_size, rows)}"
        )
    elif virtual > 1 and pipeline > 1 and (work.global_batch_size // rows) % pipeline:
        problems.append(
            f"with parallel.virtual_stages = {virtual} the micro-batches of a step, {work.global_batch_size // rows}, "
            f"must be divisible by parallel.pipeline = {pipeline}; for train.global_batch_size "
            f"{_nearest_multiples(work.global_batch_size, rows * pipeline)}"
        )
    if virtual > 1 and pipeline == 1:
        problems.append(f"parallel.virtual_stages = {virtual} needs parallel.pipeline of at least 2")
    problems += _zero_problems(parallel, work)
    return problems


def nearest_layouts(
    parallel: ParallelConfig, model: ModelConfig, work: Workload, most: int = 3
) -> list[ParallelConfig]:
    """Returns possible layouts of the same number of ranks, nearest first."""
    found: list[tuple[float, int, ParallelConfig]] = []
    divisors = [n for n in range(1, work.world_size + 1) if work.world_size % n == 0]
    zeros = [parallel.zero, *([1] if parallel.zero > 1 else [])]
    for tensor in divisors:
        for pipeline in (n for n in divisors if (work.world_size // tensor) % n == 0):
            for virtual in {1, parallel.virtual_stages}:
                for zero in zeros:
                    layout = parallel.model_copy(
                        update={"tensor": tensor, "pipeline": pipeline, "virtual_stages": virtual, "zero": zero}
                    )
                    if not layout_problems(layout, model, work):
                        distance = (
                            abs(math.log2(tensor / parallel.tensor))
                            + abs(math.log2(pipeline / parallel.pipeline))
                            + 0.5 * (virtual != parallel.virtual_stages)
                            + 0.5 * (zero != parallel.zero)
                        )
                        found.append((distance, len(found), layout))
    return [layout for _, _, layout in sorted(found, key=lambda item: item[:2])[:most]]


def describe(parallel: ParallelConfig, work: Workload) -> str:
    """Writes a layout as overrides."""
    data = work.world_size // (parallel.tensor * parallel.pipeline)
    virtual = f" parallel.virtual_stages={parallel.virtual_stages}" if parallel.virtual_stages > 1 else ""
    return (
        f"parallel.tensor={parallel.tensor} parallel.pipeline={parallel.pipeline}{virtual} "
        f"parallel.data={data} parallel.zero={parallel.zero}"
    )


def _tensor_problems(parallel: ParallelConfig, model: ModelConfig, work: Workload) -> list[str]:
    tensor = parallel.tensor
    sharded = {
        "model.num_heads": model.num_heads,
        "model.num_kv_heads": model.kv_heads,
        "model.ffn_size": model.ffn_size,
    }
    if model.vocab_size is not None:
        sharded["model.vocab_size"] = model.vocab_size
    if parallel.sequence:
        sharded["train.seq_length"] = work.seq_length
    return [
        f"{key} = {value} must be divisible by parallel.tensor = {tensor}; {_nearest_multiples(value, tensor)}"
        for key, value in sharded.items()
        if value % tensor
    ]


def _nearest_multiples(value: int, divisor: int) -> str:
    """Names the nearest multiples of `divisor` below and above a value that is none."""
    below = value // divisor * divisor
    return f"the nearest is {divisor}" if below == 0 else f"the nearest are {below} and {below + divisor}"


def _zero_problems(parallel: ParallelConfig, work: Workload) -> list[str]:
    if parallel.zero < 2:
        return []
    problems = []
    if parallel.pipeline > 1:
        problems.append(
            f"parallel.zero = {parallel.zero} reduces gradients in every backward pass, which a pipeline "
            f"(parallel.pipeline = {parallel.pipeline}) runs many times a step; use parallel.zero 0 or 1"
        )
    if work.needs_full_matrices:
        problems.append(
            f"parallel.zero = {parallel.zero} splits matrices into flat parts, and {work.needs_full_matrices} needs "
            "full matrices; use parallel.zero 0 or 1"
        )
    return problems
