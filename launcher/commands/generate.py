"""`lehr generate`: go on with a text, by a run's newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.exit_codes import user_errors


@user_errors
def generate_text(
    run: Annotated[Path, typer.Argument(help="a run folder, such as runs/demo", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="the text to go on with", show_default=False)] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many at most.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample among the likeliest that reach this.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    shards: Annotated[Path | None, typer.Option(help="The run's shards, where they were moved.")] = None,
) -> None:
    """Go on with a text, sampled from a run's newest checkpoint."""
    from data.shards.index import open_shards
    from data.tokenizer import load_tokenizer
    from launcher.run.saved_run import open_saved_run
    from settings import UserError
    from train.sampling import generate

    opened = open_saved_run(run, data_shards=shards)
    theirs = open_shards(opened.config.data)
    info, tokenizer = theirs.tokenizer, load_tokenizer(theirs.tokenizer_file())
    encoded = tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else [info.eos_id]
    if not encoded:
        raise UserError(f"the prompt {prompt!r} has no tokens")
    produced = list(
        generate(
            opened.transformer,
            encoded,
            seq_length=opened.config.train.seq_length,
            entries=info.vocab_size,
            tokens=tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            end=info.eos_id,
        )
    )
    print(prompt + tokenizer.decode(produced))
