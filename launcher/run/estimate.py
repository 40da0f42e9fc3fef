"""The estimate of a step before it is taken: the memory of the fullest rank, micro-batches, FLOPs and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from data.batches.batch import BYTES_PER_TOKEN
from launcher.run.config import RunConfig
from model.config import ModelConfig
from model.memory import LayoutSizes, RankBytes, logits_bytes, rank_bytes
from model.size import flops_per_token
from settings.durations import format_duration
from train.metrics.console import format_count
from train.metrics.hardware import Peak
from train.safety.stop_listener import FINISH_SECONDS

_LONG_STEP_SECONDS = 600.0  # a longer step is rarely meant
_MANY_MICRO_BATCHES = 1024  # whose step may be long though the model is small


@dataclass(frozen=True)
class StepEstimate:
    """The needs of a step, by arithmetic. `flops` are those that MFU counts."""

    rank: RankBytes  # of the fullest rank
    logits_bytes: int  # of a rank of the last stage, besides its activations
    batch_bytes: int  # of main memory, of a rank's rows of this batch and of those that are prefetched
    micro_batches: int  # of a data rank
    tokens: int  # of the global batch
    flops: float  # of the global batch

    def least_seconds(self, peak_flops: float) -> float:
        """Returns how long a step takes at the peak of all ranks; a real one takes a multiple of it."""
        return self.flops / peak_flops


def estimate_step(config: RunConfig, model: ModelConfig, *, world_size: int) -> StepEstimate:
    """Estimates a step of `model`, whose vocabulary is known, for an optimizer that keeps two moments a weight."""
    parallel, train = config.parallel, config.train
    data = world_size // (parallel.tensor * parallel.pipeline)
    micro_batches = train.global_batch_size // (train.micro_batch_size * data)
    layout = layout_sizes(config, data=data, device=device_type(config))
    rank = rank_bytes(
        model,
        layout,
        seq_length=train.seq_length,
        micro_batch_size=train.micro_batch_size,
        micro_batches=micro_batches,
        mask_bytes=mask_bytes(config),
    )
    tokens = train.global_batch_size * train.seq_length
    return StepEstimate(
        rank=rank,
        logits_bytes=logits_bytes(model, layout, tokens=train.micro_batch_size * train.seq_length),
        batch_bytes=tokens // data * BYTES_PER_TOKEN * (1 + config.data.prefetch_batches),
        micro_batches=micro_batches,
        tokens=tokens,
        flops=tokens * flops_per_token(model, train.seq_length),
    )


def layout_sizes(config: RunConfig, *, data: int, device: str) -> LayoutSizes:
    """Returns what the bytes of a rank depend on, for a number of data ranks and a type of device."""
    parallel, train = config.parallel, config.train
    return LayoutSizes(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        virtual_stages=parallel.virtual_stages,
        data=data,
        zero=parallel.zero,
        sequence=parallel.sequence,
        recompute=train.recompute,
        bfloat16=train.precision == "bfloat16",
        device_type=device,
        fused_loss=device != "cpu" and train.cross_entropy != "torch",
    )


def mask_bytes(config: RunConfig) -> int:
    """Returns what transforms of the optimizer's update keep of a weight."""
    return sum(transform.bytes_per_weight for transform in config.optim.transforms)


def device_type(config: RunConfig) -> str:
    """Returns the type of device that the ranks compute on."""
    return "cpu" if config.train.device == "cpu" or not torch.cuda.is_available() else "cuda"


def estimate_lines(step: StepEstimate, peak: Peak, *, world_size: int) -> list[str]:
    """Returns the lines that say what a step needs, and what its time and MFU are measured against."""
    rank = step.rank
    parts = {
        "weights": rank.weights,
        "gradients": rank.gradients,
        "optimizer state": rank.optimizer,
        "activations": rank.activations,
        "batches": step.batch_bytes,
    }
    memory = ", ".join(f"{format_bytes(size)} {name}" for name, size in parts.items())
    many = "micro-batches" if step.micro_batches > 1 else "micro-batch"
    work = f"{step.micro_batches} {many} a rank, {step.tokens:,} tokens, {format_count(step.flops)} FLOPs"
    lines = [f"estimate of the memory of the fullest rank: {memory}"]
    if peak.flops is None:
        return [*lines, f"estimate of a step: {work}; no time and no mfu: {peak.origin}"]
    seconds = step.least_seconds(peak.flops * world_size)
    least = format_duration(seconds) if seconds >= 1 else f"{format_count(1000 * seconds)} ms"
    ranks = f"{world_size} ranks" if world_size > 1 else "1 rank"
    peaks = f"{ranks} of {format_count(peak.flops)} FLOP/s each ({peak.origin})"
    return [*lines, f"estimate of a step: {work}; at least {least}, at an mfu of 100%: {peaks}"]


def step_warnings(config: RunConfig, step: StepEstimate, peak: Peak, *, world_size: int) -> Iterator[str]:
    """Yields a warning for a step that is too long to be meant, that the time limit ends, or that no stop can end."""
    train, parallel = config.train, config.parallel
    seconds = 0.0 if peak.flops is None else step.least_seconds(peak.flops * world_size)
    at_least = f"a step takes at least {format_duration(seconds)}"
    if seconds > _LONG_STEP_SECONDS:
        yield (
            f"{at_least}: train.global_batch_size = {train.global_batch_size} counts rows of train.seq_length = "
            f"{train.seq_length} tokens, not tokens"
        )
    limit = train.time_limit_seconds
    if limit is not None and seconds > limit - train.stop_before_limit_seconds:
        yield (
            f"{at_least}, and train.time_limit_seconds = {limit:g} leaves no time for one; "
            "make it longer, or train.global_batch_size smaller"
        )
    if not parallel.can_drop_step and (seconds > FINISH_SECONDS or step.micro_batches >= _MANY_MICRO_BATCHES):
        layout = (
            f"parallel.pipeline = {parallel.pipeline}" if parallel.pipeline > 1 else f"parallel.zero = {parallel.zero}"
        )
        yield (
            f"stop signals and the time limit wait for the end of a step, of {step.micro_batches} micro-batches: with "
            f"{layout}, no step can be dropped"
        )


def format_bytes(size: float) -> str:
    """Formats a number of bytes, such as `1.5 GiB`."""
    return f"{format_count(size, base=1024)}B"
