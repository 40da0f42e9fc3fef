"""`lehr eval`: evaluates a run's checkpoint on the held-out documents."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from launcher.commands.arguments import CheckpointStepOption, MovedShardsOption, RunFolderArgument


def evaluate_run(
    run: RunFolderArgument,
    windows: Annotated[
        int | None, typer.Option(min=1, help="Sequences of each source; by default evaluate.max_windows of the run.")
    ] = None,
    step: CheckpointStepOption = None,
    shards: MovedShardsOption = None,
) -> None:
    """Compute the held-out loss of a run's checkpoint for each source, in nats per token and in bits per byte.

    The shards are compared with their hashes first, as before training, unless `data.verify_hashes` is off.
    The unigram loss is that of a model that knows only the frequency of each token in the source's training split.
    """
    from rich.console import Console
    from rich.table import Table

    from data.shards.unigram import unigram_loss
    from launcher.run.held_out_sequences import held_out_loader, uncounted_warnings
    from launcher.run.saved_run import open_saved_run
    from launcher.run.stages import training_data
    from launcher.run.verify_shards import verify_run_shards
    from settings import UserError
    from train.evaluate import evaluate

    saved = open_saved_run(run, step=step, data_shards=shards)
    config = saved.config
    verify_run_shards(training_data(config))
    held_out = held_out_loader(config, max_windows=windows)
    for warning in uncounted_warnings(held_out):
        print(f"warning: {warning}", file=sys.stderr)
    if not held_out.sources:
        raise UserError(
            f"no source in {config.data.shards} has held-out tokens that count; "
            "build shards with data.held_out_fraction > 0, or give more --windows"
        )
    evaluation = evaluate(
        saved.engine,
        held_out,
        saved.mesh,
        micro_batch_size=config.train.micro_batch_size,
        micro_batches=1,
        make_mask=saved.documents,
    )
    assert evaluation is not None
    table = Table(
        "source", "tokens", "loss", "unigram loss", "bits per byte", title=f"{run}, step {saved.step}, held out"
    )
    for name, source in evaluation.sources.items():
        unigram = unigram_loss(held_out.shards, name)
        bits = "" if source.bits_per_byte is None else f"{source.bits_per_byte:.4f}"
        table.add_row(name, f"{source.tokens:,}", f"{source.loss:.4f}", f"{unigram:.4f}", bits)
    table.add_row("all", "", f"{evaluation.loss:.4f}", "", "")
    Console().print(table)
