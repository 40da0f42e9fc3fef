"""What a run draws from its shards: their windows and mixture, and every mistake that shows before the start."""

from __future__ import annotations

from data.batches.mixture import Mixture, Stage, integer_weights
from data.config import DataConfig
from data.shards.dataset_json import Split
from data.shards.index import Shards, open_shards
from settings import UserError

# Weights in proportion to tokens are no decimals that somebody chose: parts of this many are close enough, and their
# table is made in a twentieth of a second.
_PARTS_BY_TOKENS = 2**16


def mixture_of(config: DataConfig, shards: Shards, *, split: Split, rows_per_step_global: int) -> Mixture:
    """The mixture of `config` over the sources of `shards`, its stages counted in rows."""
    stages: list[Stage] = []
    starts = [0, *(stage.from_step for stage in config.stages)]
    for from_step, mixture in zip(starts, config.mixtures().values(), strict=True):
        if mixture:
            weights = integer_weights([mixture.get(name, 0) for name in shards.names])
        else:
            tokens = [shards.split(name, split).tokens for name in shards.names]
            if not any(tokens):
                raise UserError(f"data.shards = {shards.folder}: no source has tokens in its {split} split")
            weights = integer_weights(tokens, longest=_PARTS_BY_TOKENS)
        if stages and stages[-1].first_row == from_step * rows_per_step_global:
            stages.pop()  # a stage from step 0 on stands in for data.mixture
        stages.append(Stage(from_step * rows_per_step_global, weights))
    return Mixture(stages)


def windows_of(tokens: int, seq_length: int) -> int:
    """How many whole windows a stream has: of seq_length + 1 tokens, each beginning with the last of the one before."""
    return max(tokens - 1, 0) // seq_length


def check_windows(config: DataConfig, shards: Shards, seq_length: int, split: Split = "train") -> None:
    """Raise UserError where a source that some stage draws from has not a single window."""
    drawn: set[str] = set()
    for mixture in config.mixtures().values():
        drawn.update(
            name for name in shards.names if mixture.get(name, 0) or (not mixture and shards.split(name, split).tokens)
        )
    for name in sorted(drawn):
        tokens = shards.split(name, split).tokens
        if not windows_of(tokens, seq_length):
            remedy = f"set train.seq_length to at most {tokens - 1}, or leave" if tokens > 1 else "leave"
            raise UserError(
                f'train.seq_length = {seq_length}: source "{name}" has {tokens} tokens in its {split} split, and a row '
                f"takes seq_length + 1; {remedy} the source out of data.mixture"
            )


def check_shards(config: DataConfig, seq_length: int) -> Shards:
    """Everything a user can get wrong about shards, found before any process starts; raises UserError.

    Missing folders, sources, files; unknown sources in a mixture; files cut short or of another size; an index that
    does not fit its shard; an altered tokenizer; a source shorter than a row. All but what takes reading every byte:
    see data/shards/verify.py.
    """
    shards = open_shards(config)
    check_windows(config, shards, seq_length)
    mixture_of(config, shards, split="train", rows_per_step_global=1)  # says so where there is nothing to draw from
    for name, dataset in shards.datasets.items():
        for split in dataset.splits:
            shards.stream(name, split)
    shards.tokenizer_file()
    return shards
