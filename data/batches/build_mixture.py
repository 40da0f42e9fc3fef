"""The mixture that a config describes, over the sources whose shards it names."""

from __future__ import annotations

from data.batches.batch import num_sequences
from data.batches.mixture import Mixture, MixtureStage, integer_weights
from data.config import DataConfig
from data.shards.dataset_json import Split
from data.shards.index import Shards
from settings import UserError

# Nobody chose weights in proportion to tokens as decimals, so a coarser period is precise enough; its table is made in
# a twentieth of a second.
_LONGEST_PERIOD_BY_TOKENS = 2**16


def build_mixture(config: DataConfig, shards: Shards, *, split: Split, rows_per_step_global: int) -> Mixture:
    """Build the mixture of `config` over the sources of `shards`; its stages begin at rows, not at steps.

    Raises UserError if weights go by tokens and no source has any.
    """
    stages: list[MixtureStage] = []
    starts = [0, *(stage.from_step for stage in config.stages)]
    for from_step, mixture in zip(starts, config.mixtures().values(), strict=True):
        if mixture:
            weights = integer_weights([mixture.get(name, 0) for name in shards.names])
        else:
            tokens = [shards.split(name, split).tokens for name in shards.names]
            if not any(tokens):
                raise UserError(f"data.shards = {shards.folder}: no source has tokens in its {split} split")
            weights = integer_weights(tokens, longest=_LONGEST_PERIOD_BY_TOKENS)
        if stages and stages[-1].first_row == from_step * rows_per_step_global:
            stages.pop()  # a stage that begins at step 0 replaces data.mixture
        stages.append(MixtureStage(from_step * rows_per_step_global, weights))
    return Mixture(stages)


def check_seq_length(config: DataConfig, shards: Shards, seq_length: int, split: Split = "train") -> None:
    """Raise UserError if a source that some stage draws from is too short for a single sequence."""
    drawn: set[str] = set()
    for mixture in config.mixtures().values():
        drawn.update(
            name for name in shards.names if mixture.get(name, 0) or (not mixture and shards.split(name, split).tokens)
        )
    for name in sorted(drawn):
        tokens = shards.split(name, split).tokens
        if not num_sequences(tokens, seq_length):
            remedy = f"set train.seq_length to at most {tokens - 1}, or leave" if tokens > 1 else "leave"
            raise UserError(
                f'train.seq_length = {seq_length}: source "{name}" has {tokens} tokens in its {split} split, and a row '
                f"takes seq_length + 1; {remedy} the source out of data.mixture"
            )
