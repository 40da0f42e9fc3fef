"""The message of a rank that is out of memory: what it held, what the estimate was, and which settings need less."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from launcher.run.config import RunConfig, with_values
from launcher.run.estimate import StepEstimate, device_type, estimate_step, format_bytes
from launcher.run.machine import free_bytes
from launcher.run.preflight import model_with_vocabulary, workload
from model.config import ModelConfig
from parallel.engines.engine import HeldBytes
from parallel.layout import layout_problems
from parallel.mesh import Mesh
from train.metrics.hardware import memory_bytes
from train.safety.rank_place import place_of_rank
from train.safety.watchdog import place_of

# What torch, CUDA and C++ say in errors that have no class of their own.
_PHRASES = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
_LEAST_SHARE = 0.01  # a setting that saves less is not worth a line
_MOST_REASON = 400  # characters of the original message


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def explain_out_of_memory(
    error: BaseException, config: RunConfig, mesh: Mesh, *, held: HeldBytes | None, position: str
) -> str:
    """Returns the message. `held`: what the engine holds from step to step; None if it was not built yet.

    `position`: where training stood, such as `step 3, micro-batch 1 of 4`.
    """
    model = model_with_vocabulary(config)
    on_gpu = mesh.device.type == "cuda"
    step = estimate_step(config, model, world_size=mesh.world_size)
    reason = " ".join(str(error).split())[:_MOST_REASON] or type(error).__name__
    lines = [
        f"out of memory at {position}, in {_place(error)}: {place_of_rank(mesh)}",
        f"  {reason}",
        *(f"  {line}" for line in _table(step, held, mesh.device)),
    ]
    if not on_gpu:
        lines.append(f"  free memory of this machine, for all ranks on it: {format_bytes(free_bytes())}")
    settings = list(settings_that_need_less(config, model, world_size=mesh.world_size, on_gpu=on_gpu))
    if settings:
        lines.append("settings that need less, by the estimate; those that change least come first:")
        lines += [f"  {one.overrides} saves {format_bytes(one.saved)} ({100 * one.share:.0f}%)" for one in settings]
    return "\n".join(lines)


@dataclass(frozen=True)
class SmallerSetting:
    """A change of a config that lets the fullest rank need less memory."""

    overrides: str
    saved: int  # bytes
    share: float  # of what the rank needs


def settings_that_need_less(
    config: RunConfig, model: ModelConfig, *, world_size: int, on_gpu: bool
) -> Iterator[SmallerSetting]:
    """Yields changes that save at least a hundredth, by the estimate.

    Those that only cost time come first, then other layouts, and another arithmetic at the end.
    """
    needed = _device_bytes(config, model, world_size, on_gpu=on_gpu)
    for values, ranks in _changes(config, model, world_size, on_gpu=on_gpu):
        changed = with_values(config, values, source="a config that needs less memory")
        changed_model = changed.model.with_vocabulary(model.vocabulary)
        if layout_problems(changed.parallel, changed_model, workload(changed, ranks)):
            continue
        saved = needed - _device_bytes(changed, changed_model, ranks, on_gpu=on_gpu)
        if saved >= _LEAST_SHARE * needed:
            overrides = " ".join(f"{key}={value}" for key, value in values.items())
            on_more = f" on {ranks} ranks" if ranks > world_size else ""
            yield SmallerSetting(overrides + on_more, saved, saved / needed)


def _changes(
    config: RunConfig, model: ModelConfig, world_size: int, *, on_gpu: bool
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields values by key, and the number of ranks; not all of them fit the model."""
    train, parallel = config.train, config.parallel
    divisors = [size for size in range(1, train.micro_batch_size) if train.micro_batch_size % size == 0]
    if divisors:
        yield {"train.micro_batch_size": divisors[-1]}, world_size
    levels = ("none", "selective", "full")
    for level in levels[levels.index(train.recompute) + 1 :]:
        yield {"train.recompute": level}, world_size
    chunk_tokens = config.model.objective.tokens_at_once(
        train.micro_batch_size * train.seq_length,
        device_type=device_type(config),
        vocabulary=model.vocabulary // parallel.tensor,
    )
    if chunk_tokens >= 4 and "chunk_tokens" in type(config.model.objective).model_fields:
        yield {"model.objective.chunk_tokens": chunk_tokens // 4}, world_size
    if on_gpu and parallel.offload == "none":
        yield {"parallel.offload": "optimizer"}, world_size
    for zero in range(parallel.zero + 1, 4):
        yield {"parallel.zero": zero}, world_size
    data = world_size // (parallel.tensor * parallel.pipeline)
    for axis in ("tensor", "pipeline"):
        size = 2 * getattr(parallel, axis)
        yield {f"parallel.{axis}": size, "parallel.data": data // 2 or 1}, (2 if data == 1 else 1) * world_size
    yield {"parallel.data": 2 * data}, 2 * world_size
    if train.precision == "float32":
        yield {"train.precision": "bfloat16"}, world_size


def _device_bytes(config: RunConfig, model: ModelConfig, world_size: int, *, on_gpu: bool) -> int:
    """Estimates the bytes of the fullest rank, without what it offloads."""
    step = estimate_step(config, model, world_size=world_size)
    offloaded = step.rank.optimizer if on_gpu and config.parallel.offload == "optimizer" else 0
    return step.rank.total + step.logits_bytes - offloaded


def _table(step: StepEstimate, held: HeldBytes | None, device: torch.device) -> list[str]:
    """Returns what the rank held at most and what was estimated, part by part. Logits cannot be told apart."""
    estimate = step.rank
    rest = memory_bytes(device) - (0 if held is None else held.total)
    libraries = "" if device.type == "cuda" else ", libraries"
    weights, gradients, optimizer = (None,) * 3 if held is None else (held.weights, held.gradients, held.optimizer)
    rows = [
        ("weights", weights, estimate.weights),
        ("gradients", gradients, estimate.gradients),
        ("optimizer state", optimizer, estimate.optimizer),
        (f"activations, logits{libraries}", rest, estimate.activations + step.logits_bytes),
        ("of these, logits", None, step.logits_bytes),
    ]
    lines = [f"{'':30}{'held':>10}{'estimate':>12}"]
    for part, size, estimated in rows:
        lines.append(f"{part:30}{'-' if size is None else format_bytes(size):>10}{format_bytes(estimated):>12}")
    return lines


def _place(error: BaseException) -> str:
    """Returns the line of lehr in which the error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return place_of(None if traceback is None else traceback.tb_frame)
