"""The scores of tokens on two tensor ranks, against dense float64 of the logits that the ranks hold together."""

from __future__ import annotations

import pytest
import torch
from parallel_runs import Trial, global_batches, start
from processes import run_ranks
from torch import Tensor, nn

from model.token_scores import TokenScores


def _scores_and_logits(sequence: bool) -> tuple[TokenScores, Tensor, Tensor]:
    """Returns the scores of a batch [B, T], this rank's shard of the logits [T, B, v], and the targets [B, T]."""
    _, parts = start(Trial(parallel={"tensor": 2, "sequence": sequence}))
    (chunk,) = parts.chunks
    batch = next(global_batches())
    with torch.no_grad():
        x_tBD = chunk.transformer(batch.tokens, None, batch.positions)
        return chunk.transformer.token_scores(x_tBD, batch.targets), chunk.transformer.logits(x_tBD), batch.targets


@pytest.mark.parametrize("sequence", [False, True])
def test_scores_of_two_tensor_ranks(sequence: bool) -> None:
    ranks = run_ranks(2, _scores_and_logits, sequence)
    logits_BTV = torch.cat([logits_TBv for _, logits_TBv, _ in ranks], dim=-1).transpose(0, 1).double()
    for scores, _, targets_BT in ranks:
        onehot_BTV = nn.functional.one_hot(targets_BT, logits_BTV.shape[-1])
        wanted = TokenScores(
            (logits_BTV.softmax(-1) - onehot_BTV).norm(dim=-1),
            nn.functional.cross_entropy(logits_BTV.mT, targets_BT, reduction="none"),
            (logits_BTV.argmax(-1) == targets_BT).double(),
        )
        for found_BT, wanted_BT in zip(scores, wanted, strict=True):
            torch.testing.assert_close(found_BT.double(), wanted_BT, rtol=1e-5, atol=1e-6)
