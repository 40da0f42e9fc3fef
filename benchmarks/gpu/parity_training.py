"""Short runs of one small model on this process's device.

The model is the same on every device: initial weights come from the CPU. Rows have two documents each, and half of the
tokens follow from the one before them, so that the loss falls.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from gpu.parity_cases import MICRO_BATCH, ROWS, VOCABULARY, Case, Sizes
from optim.optimizer import OPTIMIZERS
from parallel.build import ComputeConfig, TrainableModel, build
from parallel.chunk import MicroBatch
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh, start_processes


def one_rank() -> Mesh:
    """Makes the mesh of this process alone."""
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=600, store=dist.HashStore())  # type: ignore[attr-defined]
    return make_mesh(ParallelConfig(), timeout_seconds=600)


def losses(case: Case, mesh: Mesh, sizes: Sizes) -> list[float]:
    """Trains one case, and returns the loss of each step."""
    optimizer = OPTIMIZERS[case.optimizer].examples()[0]
    parts = build(
        sizes.model(),
        ParallelConfig(**case.parallel),
        optimizer,
        mesh,
        compute=ComputeConfig(**case.compute),
        seq_length=sizes.seq_length,
        micro_batches=ROWS // MICRO_BATCH,
        seed=3,
        total_steps=sizes.steps,
    )
    parts.draw_weights()
    found = []
    for step in range(sizes.steps):
        batches = _micro_batches(step, parts, mesh, sizes.seq_length, documents=case.documents)
        found.append(parts.engine.train_step(batches, lr=optimizer.lr).nll / (ROWS * sizes.seq_length))
    return found


def _micro_batches(step: int, parts: TrainableModel, mesh: Mesh, length: int, *, documents: bool) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(VOCABULARY, (ROWS, length + 1), generator=generator)
    tokens[:, 1::2] = (tokens[:, :-1:2] * 5 + 7) % VOCABULARY
    border = torch.randint(length // 8, length - length // 8, (ROWS, 1), generator=generator)
    numbers = (torch.arange(length) >= border).int() * int(documents)
    positions = torch.arange(length) - numbers * border
    weights = torch.full((ROWS, length), 1 / (ROWS * length))

    def on_device(x: Tensor) -> Tensor:
        return x.contiguous().to(mesh.device)

    return [
        MicroBatch(
            on_device(tokens[rows, :-1]),
            on_device(tokens[rows, 1:]),
            on_device(weights[rows]),
            on_device(positions[rows]),
            parts.build_attention_mask(numbers[rows]),
        )
        for rows in (slice(start, start + MICRO_BATCH) for start in range(0, ROWS, MICRO_BATCH))
    ]
