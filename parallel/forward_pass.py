"""Forward passes of batches of any shape through all stages of a pipeline, for what is no training step.

Megatron's schedules expect micro-batches of one shape. Here each stage sends its output on and takes the next batch, so
that all stages work at once.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from model.token_scores import TokenScores
from parallel.chunk import PipelineChunk
from parallel.mesh import Axis, Mesh


@torch.no_grad()
def score_tokens(chunk: PipelineChunk, mesh: Mesh, tokens_BT: Tensor, targets_BT: Tensor) -> TokenScores | None:
    """Returns the scores [B, T] of the tokens of rows that are one document each, on the last stage; None elsewhere.

    All ranks of a pipeline and its tensor ranks call it, with the same batches. A rank has one chunk, and no sequence
    parallelism, since a batch has any length. Rows that are filled up on the right need no mask: attention is causal.
    """
    pipeline, transformer = mesh.pipeline, chunk.transformer
    rows, length = tokens_BT.shape
    x_TBD = None
    if pipeline.rank > 0:
        shape = (length, rows, transformer.config.hidden_size)
        x_TBD = torch.empty(shape, dtype=chunk.config.pipeline_dtype, device=mesh.device)
        dist.recv(x_TBD, group=pipeline.group, group_src=pipeline.rank - 1)
    positions_BT = torch.arange(length, device=mesh.device).expand(rows, -1)
    x_TBD = transformer(tokens_BT, None, positions_BT, x_TBD)
    if mesh.is_last_stage:
        return transformer.token_scores(x_TBD, targets_BT)
    dist.send(x_TBD.contiguous(), group=pipeline.group, group_dst=pipeline.rank + 1)
    return None


def sum_over(values: Tensor, axis: Axis) -> Tensor:
    """Returns the sum over the ranks of an axis, in place. The values must be on the mesh's device."""
    if axis.size > 1:
        dist.all_reduce(values, group=axis.group)
    return values
