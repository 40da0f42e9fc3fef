"""Rows from the loader become micro-batches of tensors, each token weighted by the whole global batch's count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from data.loader import Rows
from model.attention import Documents
from parallel.mesh import Mesh
from parallel.stage import MicroBatch


@dataclass(frozen=True)
class LocalBatch:
    """This data rank's micro-batches, and the unmasked tokens of all data ranks'."""

    micro_batches: list[MicroBatch]
    tokens_global: int


def to_local_batch(
    rows: Rows, mesh: Mesh, *, micro_batch_size: int, documents: Callable[[torch.Tensor], Documents | None]
) -> LocalBatch:
    """Cut rows into micro-batches in their order. The count of unmasked tokens is summed over the data ranks.

    `documents` makes the masks of a micro-batch from its document numbers [B, T].
    """
    count = torch.tensor(int(rows.loss_mask.sum()), dtype=torch.int64, device=mesh.device)
    dist.all_reduce(count, group=mesh.data.group)
    tokens_global = int(count)
    weight = 1.0 / max(tokens_global, 1)
    micro_batches = []
    for start in range(0, len(rows.tokens), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        micro_batches.append(
            MicroBatch(
                tokens_BT=_tensor(rows.tokens[part], mesh),
                targets_BT=_tensor(rows.targets[part], mesh),
                weights_BT=_tensor(rows.loss_mask[part], mesh).float() * weight,
                positions_BT=_tensor(rows.positions[part], mesh),
                documents=documents(torch.from_numpy(np.ascontiguousarray(rows.documents[part]))),
            )
        )
    return LocalBatch(micro_batches, tokens_global)


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], mesh: Mesh) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(mesh.device, non_blocking=True)
