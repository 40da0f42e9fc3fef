"""GraNd: the norm of the gradient of a document's loss, by all weights (arXiv:2107.07075, section 2.1).

The paper takes the mean over models at initialisation or soon after; at initialisation the result was not reproduced
(arXiv:2303.14753).

Shapes: B rows of T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from data.score_files import Float64s
from data.shards.document_windows import DocumentWindows
from data.shards.mapped_shard import MappedShard
from model.transformer import Transformer
from parallel.forward_pass import sum_over
from parallel.mesh import Axis


def gradient_norms(
    model: Transformer,
    shard: MappedShard,
    *,
    seq_length: int,
    tokens_at_once: int,
    device: torch.device,
    data: Axis,
    add_progress: Callable[[int], object] = lambda tokens: None,
) -> Float64s:
    """Returns the norm of the gradient of each document's mean loss, [documents]; NaN if no token of it counts.

    The windows are those of `score_documents`. The model must be full on this rank; gradients that it has are lost. The
    data ranks divide the documents among themselves, and all return all norms. `add_progress` is called with the number
    of tokens of each document.
    """
    windows = DocumentWindows(shard, seq_length=seq_length)
    norms = torch.zeros(shard.file.documents, dtype=torch.float64, device=device)
    for document in range(data.rank, shard.file.documents, data.size):
        batches = list(windows.batches_of(document, tokens_at_once=tokens_at_once))
        counted = sum(int(batch.counts.sum()) for batch in batches)
        model.zero_grad()
        for batch in batches if counted else ():
            tokens_BT, targets_BT, counts_BT = (
                torch.from_numpy(each).to(device) for each in (batch.tokens, batch.targets, batch.counts)
            )
            positions_BT = torch.arange(tokens_BT.shape[1], device=device).expand_as(tokens_BT)
            x_TBD = model(tokens_BT, None, positions_BT)
            model.loss(x_TBD, targets_BT, counts_BT.float() / counted).total.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        squares = [gradient.double().square().sum() for gradient in gradients]
        norms[document] = torch.stack(squares).sum().sqrt() if squares else float("nan")
        add_progress(sum(batch.predicted for batch in batches))
    model.zero_grad()
    return sum_over(norms, data).cpu().numpy()
