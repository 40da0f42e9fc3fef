"""`lehr eval`: the held-out loss of a run's newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.exit_codes import user_errors


@user_errors
def evaluate_run(
    run: Annotated[Path, typer.Argument(help="a run folder, such as runs/demo", show_default=False)],
    windows: Annotated[
        int | None, typer.Option(min=1, help="Rows of each source; the run's own number if not given.")
    ] = None,
    shards: Annotated[Path | None, typer.Option(help="The run's shards, where they were moved.")] = None,
) -> None:
    """The held-out loss of a run's newest checkpoint, source by source: nats a token, and bits a byte.

    Beside it the loss of a model that knows only how often each token occurs in the source's training split.
    """
    from rich.console import Console
    from rich.table import Table

    from data.batches.held_out import HeldOutLoader
    from data.shards.unigram import unigram_loss
    from launcher.run.saved_run import open_saved_run
    from settings import UserError
    from train.evaluate import evaluate

    opened = open_saved_run(run, data_shards=shards)
    config = opened.config
    held_out = HeldOutLoader(config.data, seq_length=config.train.seq_length)
    if not held_out.sources:
        raise UserError(
            f"no source in {config.data.shards} has held-out documents; build shards with data.held_out_fraction > 0"
        )
    evaluation = evaluate(
        opened.engine,
        held_out,
        opened.mesh,
        micro_batch_size=config.train.micro_batch_size,
        micro_batches=1,
        max_windows=windows or config.evaluate.max_windows,
        documents=opened.documents,
    )
    assert evaluation is not None
    table = Table(
        "source", "tokens", "loss", "unigram loss", "bits per byte", title=f"{run}, step {opened.step}, held out"
    )
    for name, source in evaluation.sources.items():
        unigrams = unigram_loss(held_out.shards, name)
        table.add_row(
            name, f"{source.tokens:,}", f"{source.loss:.4f}", f"{unigrams:.4f}", f"{source.bits_per_byte:.4f}"
        )
    table.add_row("all", "", f"{evaluation.loss:.4f}", "", "")
    Console().print(table)
