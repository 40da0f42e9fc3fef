"""The scores of a shard's documents by a model: the mean over the tokens of each, whatever batch its windows are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.score_files import DocumentScores
from data.shards.document_windows import DocumentWindows
from data.shards.mapped_shard import MappedShard
from model.transformer import Transformer


@torch.no_grad()
def score_documents(
    model: Transformer,
    shard: MappedShard,
    *,
    seq_length: int,
    tokens_at_once: int,
    device: torch.device,
    add_progress: Callable[[int], object] = lambda tokens: None,
) -> DocumentScores:
    """Scores each document from its own first token, in windows of `seq_length`; the first token is not predicted.

    The model must have all its layers on this rank. Under tensor parallelism all ranks call this, and all return the
    scores; sequence parallelism is not possible, since batches have any length. `add_progress` is called with the
    number of tokens of each batch that were predicted.
    """
    windows = DocumentWindows(shard, seq_length=seq_length)
    tokens = np.zeros(shard.file.documents, dtype=np.int64)
    sums = np.zeros((shard.file.documents, 3))
    for batch in windows.batches(tokens_at_once=tokens_at_once):
        tokens_BT, targets_BT, counts_BT = (
            torch.from_numpy(each).to(device) for each in (batch.tokens, batch.targets, batch.counts)
        )
        positions_BT = torch.arange(tokens_BT.shape[1], device=device).expand_as(tokens_BT)
        # A row is one document, filled up on the right: causal attention needs no mask.
        scores = model.token_scores(model(tokens_BT, None, positions_BT), targets_BT)
        sums_B3 = torch.stack([torch.where(counts_BT, each_BT, 0).sum(1, dtype=torch.float64) for each_BT in scores], 1)
        np.add.at(sums, batch.documents, sums_B3.cpu().numpy())
        np.add.at(tokens, batch.documents, batch.counts.sum(1))
        add_progress(batch.predicted)
    means: npt.NDArray[Any] = np.where(tokens > 0, sums.T / np.maximum(tokens, 1), np.nan)
    el2n, loss, accuracy = means
    return DocumentScores(tokens, el2n, loss, accuracy)
