"""Copies to a device: none on a CPU; on a GPU the host does not wait."""

from __future__ import annotations

import pytest
import torch

from model.attention import AttentionMask, Kernel
from model.device_copy import copied_to


def test_a_cpu_takes_the_tensor_itself() -> None:
    x = torch.arange(3)
    assert copied_to(x, torch.device("cpu")) is x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["varlen", "sdpa"])
def test_a_mask_of_documents_does_not_wait_for_the_gpu(kernel: Kernel) -> None:
    device = torch.device("cuda", 0)
    documents_BT = (torch.arange(64) >= 20).int().repeat(2, 1)

    def mask() -> AttentionMask | None:
        return AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=torch.bfloat16, device=device)

    mask()  # the first pinned memory waits
    x = torch.randn(4096, 4096, device=device)
    done = torch.cuda.Event()
    for _ in range(200):
        x = (x @ x).clamp_(-1, 1)
    done.record()
    made = mask()
    assert not done.query()
    on_cpu = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=torch.bfloat16)
    assert made is not None
    assert on_cpu is not None
    for name in ("document_starts", "mask_B1TT"):
        found, right = getattr(made, name), getattr(on_cpu, name)
        assert (found is None) == (right is None)
        assert found is None or torch.equal(found.cpu(), right)
