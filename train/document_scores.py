"""The scores of a shard's documents by a model: the mean over the tokens of each, whatever batch its windows are in.

Shapes: B rows of T tokens, W windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from data.score_files import DocumentScores
from data.shards.document_windows import DocumentWindows
from data.shards.mapped_shard import MappedShard
from model.token_scores import TokenScores
from parallel.forward_pass import sum_over
from parallel.mesh import Axis

ScoreTokens: TypeAlias = Callable[[Tensor, Tensor], TokenScores | None]


def score_documents(
    score_tokens: ScoreTokens,
    shard: MappedShard,
    *,
    seq_length: int,
    tokens_at_once: int,
    device: torch.device,
    data: Axis,
    add_progress: Callable[[int], object] = lambda tokens: None,
) -> DocumentScores:
    """Scores each document from its own first token, in windows of `seq_length`; the first token is not predicted.

    `score_tokens` takes tokens and targets [B, T] and returns their scores, or None on a rank that has none: there all
    documents have none. The data ranks divide the batches among themselves, and all return the same scores.
    `add_progress` is called with the tokens of each of this rank's batches.
    """
    windows = DocumentWindows(shard, seq_length=seq_length)
    sums_W4 = torch.zeros(len(windows.documents), 4, dtype=torch.float64, device=device)
    for batch in windows.batches(tokens_at_once=tokens_at_once, part=data.rank, parts=data.size):
        tokens_BT, targets_BT, counts_BT = (
            torch.from_numpy(each).to(device) for each in (batch.tokens, batch.targets, batch.counts)
        )
        if (scores := score_tokens(tokens_BT, targets_BT)) is not None:
            columns = [torch.where(counts_BT, each_BT, 0).sum(1, dtype=torch.float64) for each_BT in scores]
            sums_W4[batch.windows] = torch.stack([counts_BT.sum(1).double(), *columns], 1)
        add_progress(batch.predicted)
    # Each window is on one data rank, so this sum is exact. Documents are summed in the order of windows.
    sums = np.zeros((shard.file.documents, 4))
    np.add.at(sums, windows.documents, sum_over(sums_W4, data).cpu().numpy())
    tokens = sums[:, 0].astype(np.int64)
    el2n, loss, accuracy = np.where(tokens > 0, sums[:, 1:].T / np.maximum(tokens, 1), np.nan)
    return DocumentScores(tokens, el2n, loss, accuracy)
