"""`lehr generate`: continues a text with a run's checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.commands.arguments import CheckpointStepOption, MovedShardsOption, RunFolderArgument


def generate_text(
    run: RunFolderArgument,
    prompt: Annotated[str, typer.Argument(help="the text to continue", show_default=False)] = "",
    tokens: Annotated[int, typer.Option(min=1, help="The largest number of tokens to generate.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the most probable token.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Sample among the most probable tokens that sum to it.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    step: CheckpointStepOption = None,
    shards: MovedShardsOption = None,
) -> None:
    """Continue a text with tokens sampled from a run's checkpoint."""
    from data.shards.index import open_shards
    from data.tokenizer import load_tokenizer, text_tokenizer
    from launcher.run.saved_run import open_saved_run
    from launcher.run.stages import training_data
    from settings import UserError
    from train.sampling import generate

    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt is no UTF-8 text; convert it, such as with iconv") from None
    saved = open_saved_run(run, step=step, data_shards=shards)
    shard_set = open_shards(training_data(saved.config))
    info, tokenizer = shard_set.tokenizer, load_tokenizer(shard_set.tokenizer_file())
    encoder = text_tokenizer(tokenizer, info.eos_id)  # a prompt is encoded as a document is
    encoded = encoder.encode(prompt, add_special_tokens=False).ids if prompt else [info.eos_id]
    if not encoded:
        raise UserError(f"the prompt {prompt!r} has no tokens")
    generated = list(
        generate(
            saved.transformer,
            encoded,
            seq_length=saved.config.train.seq_length,
            entries=info.vocab_size,
            tokens=tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            end=info.eos_id,
        )
    )
    print(prompt + tokenizer.decode(generated))
