"""The same bits every time: torch's deterministic algorithms, in this process."""

from __future__ import annotations

import torch
import torch.utils.deterministic


def use_deterministic_algorithms() -> None:
    """Makes torch use deterministic algorithms. An operation that has none raises RuntimeError on a GPU.

    torch's attention follows: it leaves out cuDNN, and its flash and memory-efficient kernels add up in a fixed order
    (model/packed.py asks the same of flash-attn). So do scatter and index operations, and torch.compile chooses kernels
    without timing them. On a GPU cuBLAS needs a fixed workspace too (`environment.fix_cublas_workspace`).
    """
    torch.use_deterministic_algorithms(True)
    # It would also fill every new tensor with NaN, to show what is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
