"""How well each token is predicted: error norm, loss and accuracy, with the vocabulary sharded over the tensor ranks.

EL2N (arXiv:2107.07075, section 2.2) is the norm ||softmax(z) - onehot(y)||, adapted from classes to tokens. Its square
is sum_v p_v² - 2 p_y + 1, which equals (1 - p_y)² + sum over v != y of p_v². The second form does not cancel where the
target is almost certain, and needs only sums over the ranks' shards.

Shapes: N tokens, n tokens of a chunk, D hidden_size, v a rank's shard of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.cross_entropy import default_chunk_tokens
from model.layers import Layers
from model.loss_kernels import target_columns
from model.precision import cast, wide_dtype


class TokenScores(NamedTuple):
    """Scores of tokens, all of one shape, in fp32."""

    el2n: Tensor  # from 0 to sqrt(2)
    nll: Tensor  # negative log-likelihood, in nats
    accuracy: Tensor  # 1 if the target has the highest logit, else 0; 1/k if k tokens share the highest logit


@torch.no_grad()
def token_scores(
    x_ND: Tensor, head_vD: Tensor, targets_N: Tensor, layers: Layers, *, chunk_tokens: int | None = None
) -> TokenScores:
    """Returns the scores [N] of hidden states at predicting `targets_N`. All tensor ranks return the same.

    `x_ND` is full on each rank; `head_vD` is this rank's contiguous shard of the vocabulary's rows; targets are global.
    Logits of `chunk_tokens` tokens are in memory at once; None takes as many as the loss does by default.
    """
    size = default_chunk_tokens(x_ND.device.type, len(head_vD)) if chunk_tokens is None else chunk_tokens
    buffer_nv = x_ND.new_empty(min(size, len(x_ND)), len(head_vD))
    local_N = targets_N - layers.rank * len(head_vD)
    scores_N = TokenScores(*(x_ND.new_empty(len(x_ND), dtype=wide_dtype(x_ND)) for _ in TokenScores._fields))
    for start in range(0, len(x_ND), size):
        chunk = slice(start, start + size)
        x_nD = x_ND[chunk]
        logits_nv = cast(torch.mm(x_nD, head_vD.mT, out=buffer_nv[: len(x_nD)]), wide_dtype(x_ND))
        column_n1, here_n = target_columns(local_N[chunk], len(head_vD))
        highest_n = layers.max(logits_nv.amax(1))
        aim_n = layers.sum(logits_nv.gather(1, column_n1)[:, 0] * here_n)
        margin_n = highest_n - aim_n
        scores_N.accuracy[chunk] = _accuracy(logits_nv, highest_n, margin_n == 0, layers)
        exp_nv = logits_nv.sub_(highest_n[:, None]).exp_()
        exp_nv.scatter_(1, column_n1, exp_nv.gather(1, column_n1).masked_fill(here_n[:, None], 0))
        # The norm is one pass over the logits; a square would be a second buffer as large as they are.
        sums_2n = torch.stack((exp_nv.sum(1), torch.linalg.vector_norm(exp_nv, dim=1).square()))
        others_n, squares_n = layers.sum(sums_2n)
        denominator_n = others_n + torch.exp(-margin_n)
        scores_N.el2n[chunk] = (others_n.square() + squares_n).sqrt() / denominator_n
        scores_N.nll[chunk] = margin_n + denominator_n.log()
    return scores_N


def _accuracy(logits_nv: Tensor, highest_n: Tensor, is_highest_n: Tensor, layers: Layers) -> Tensor:
    """Returns 1/k where the target's logit is the highest, which k tokens share, and 0 elsewhere.

    Ties are counted only in these rows: most targets are not the highest.
    """
    rows = is_highest_n.nonzero()[:, 0]  # the same on all tensor ranks
    ties = layers.sum((logits_nv[rows] == highest_n[rows, None]).sum(1).to(highest_n.dtype))
    return torch.zeros_like(highest_n).index_copy_(0, rows, 1 / ties)
