"""The lines of a rehearsal: what it changes, what it has proved, and what it has not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.rehearsal.first_batch import FirstBatch
from launcher.rehearsal.phases import Trained
from launcher.rehearsal.plan import Rehearsal
from parallel.config import ParallelConfig


@dataclass(frozen=True)
class Results:
    """The results of a rehearsal that has worked."""

    batch: FirstBatch
    first: Trained
    second: Trained
    held_out_loss: float | None  # of one process; None if the shards hold nothing out


def describe_layout(parallel: ParallelConfig) -> str:
    """Describes a layout, such as `tensor 2 x pipeline 2 x 2 virtual stages x data 4, ZeRO 1`."""
    virtual = f" x {parallel.virtual_stages} virtual stages" if parallel.virtual_stages > 1 else ""
    sequence = ", sequence parallel" if parallel.sequence and parallel.tensor > 1 else ""
    return (
        f"tensor {parallel.tensor} x pipeline {parallel.pipeline}{virtual} x data {parallel.data}, "
        f"ZeRO {parallel.zero}{sequence}"
    )


def ranks(parallel: ParallelConfig) -> str:
    """Returns the number of ranks of a layout, such as `4 ranks`."""
    return f"{parallel.ranks} rank{'s' if parallel.ranks > 1 else ''}"


def change_lines(plan: Rehearsal) -> list[str]:
    """Returns what the rehearsal changes in the config, by reason."""
    by_reason: dict[str, list[str]] = {}
    for change in plan.changes:
        by_reason.setdefault(change.reason, []).append(f"    {change.key}: {change.old} -> {change.new}")
    return [line for reason, lines in by_reason.items() for line in (f"  {reason}:", *lines)]


def proved_lines(plan: Rehearsal, results: Results) -> list[str]:
    """Returns what has worked, a fact each."""
    config, first, second, batch = plan.config, results.first, results.second, results.batch
    losses = ", ".join(f"{loss:.4f}" for loss in first.losses)
    lines = [
        f"The config, its layout on {ranks(config.parallel)}, its shards and its optimizer pass the checks that "
        "`lehr train` makes first.",
        f"The first global batch was read in full: {batch.rows:,} rows of {config.train.seq_length:,} tokens, of which "
        f"{batch.tokens:,} count. A run from its beginning records batch_hash {batch.batch_hash} at step 1.",
        f"{ranks(plan.first.parallel)} came up ({describe_layout(plan.first.parallel)}), made their process groups, "
        f"and took {len(first.losses)} steps with losses {losses}.",
    ]
    if plan.second.parallel == plan.first.parallel:
        resumed = "in the same layout, as no other is possible"
    else:
        resumed = f"on {ranks(plan.second.parallel)} ({describe_layout(plan.second.parallel)})"
    lines.append(
        f"The checkpoint of step {plan.second.branch.step} was resumed {resumed}; step {second.step} had the same loss "
        f"and gradient norm there{_difference(first, second)}."
    )
    if results.held_out_loss is not None:
        lines.append(
            f"After step {first.step} the held-out loss is {results.held_out_loss:.4f} in both layouts and, from the "
            "checkpoint, in one process."
        )
    return lines


def unproved_lines(plan: Rehearsal, results: Results) -> list[str]:
    """Returns what a rehearsal cannot show of this run, a sentence each."""
    config, first = plan.config, plan.first
    train = config.train
    lines = ["The model at its full widths: memory, speed, loss, and arithmetic that depends on them."]
    if train.device != "cpu":
        lines.append(
            "GPUs and the network: NCCL, memory of a GPU, and the kernels of attention, cross-entropy"
            + (" and torch.compile." if train.compile else ".")
        )
    if train.precision != first.train.precision:
        lines.append(f"The precision {train.precision}, its rounding and its masters.")
    if first.parallel.data != config.parallel.data:
        lines.append(f"{config.parallel.data} data ranks; {first.parallel.data} took part.")
    lines.append("How the cluster starts the ranks: Slurm, nodes, their environment (`lehr slurm submit --dry-run`).")
    if config.data.verify_hashes:
        lines.append(f"The bytes of the shards (`lehr data verify {config.data.shards}`).")
    if config.branch.run is not None:
        lines.append(f"The weights of {config.branch.run}: the rehearsal began with new ones.")
    if results.held_out_loss is None:
        lines.append("The held-out loss: the shards hold no text out that counts.")
    later = ["the rest of the schedule", *(["later stages"] if config.stages else [])]
    later += [f"the transform {transform.name} later on" for transform in config.optim.transforms]
    lines.append(f"Step {results.first.step + 1} and later: {', '.join(later)}.")
    return lines


def _difference(first: Trained, second: Trained) -> str:
    """Returns by how much the loss or the gradient norm of the last step differs between the layouts, at most."""
    pairs = ((first.losses[-1], second.losses[-1]), (first.grad_norm, second.grad_norm))
    relative = [abs(here - there) / abs(here) for here, there in pairs if here and math.isfinite(here)]
    return f", to {max(relative):.0e} of their size" if any(relative) else ""
