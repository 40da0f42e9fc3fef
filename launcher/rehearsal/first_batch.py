"""The first global batch of a run in full, read from the real shards as the ranks will read it."""

from __future__ import annotations

from dataclasses import dataclass

from data.batches.loader import Loader, batch_hash
from launcher.run.config import RunConfig
from launcher.run.stages import training_data
from settings import UserError

_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class FirstBatch:
    """Facts about the rows of the first step. `batch_hash` is what metrics.jsonl of the run will have there."""

    rows: int
    tokens: int  # that count for the loss
    batch_hash: str


def read_first_batch(config: RunConfig) -> FirstBatch:
    """Reads all rows of the first global batch, a part at a time. Raises UserError for a token outside the vocabulary.

    `config` has the vocabulary filled in.
    """
    rows, seq_length = config.train.global_batch_size, config.train.seq_length
    data = training_data(config).model_copy(update={"prefetch_batches": 1})
    parts = next(
        n for n in range(1, rows + 1) if (rows % n == 0 and rows // n * seq_length <= _TOKENS_AT_ONCE) or n == rows
    )
    counted = total = 0
    for part in range(parts):
        with Loader(
            data,
            seed=config.run.seed,
            seq_length=seq_length,
            rows_per_step_global=rows,
            data_rank=part,
            data_size=parts,
        ) as loader:
            batch = loader.batch(0)
            _check_tokens(max(int(batch.tokens.max()), int(batch.targets.max())), config)
            counted += int(batch.loss_mask.sum())
            total += batch_hash(batch, first_row=loader.first_row)
    return FirstBatch(rows, counted, f"{total % 2**64:016x}")


def _check_tokens(highest: int, config: RunConfig) -> None:
    if highest >= config.model.vocabulary:
        raise UserError(
            f"data.shards = {config.data.shards} has a token of number {highest}, and model.vocab_size = "
            f"{config.model.vocabulary}: the shards are damaged, and `lehr data verify {config.data.shards}` says where"
        )
