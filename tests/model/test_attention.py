"""Attention kernels against the formula in float64; document masks; which kernel is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import model.blocked
from model.attention import KERNELS, Attention, AttentionMask, Kernel
from model.layers import TorchLayers
from model.norms import RMSNormConfig
from model.position import RoPEConfig

CPU_KERNELS: list[Kernel] = ["sdpa", "blocked"]
SHAPES = [(2, 4, 4, 64, 16), (2, 6, 2, 150, 8), (1, 2, 1, 200, 16), (3, 1, 1, 1, 4), (2, 2, 2, 129, 8)]  # B, H, G, T, K


def qkv(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q, k, v as attention makes them: [B, heads, T, K], laid out as [T, B, heads, K]."""
    rows, heads, kv_heads, length, size = shape
    generator = torch.Generator().manual_seed(1)

    def made(count: int) -> Tensor:
        x = torch.randn(length, rows, count, size, generator=generator, dtype=torch.float64)
        return x.to(dtype).permute(1, 2, 0, 3).requires_grad_()

    return made(heads), made(kv_heads), made(kv_heads)


def document_numbers(rows: int, length: int, every: float = 0.05) -> Tensor:
    return (torch.rand(rows, length, generator=torch.Generator().manual_seed(2)) < every).cumsum(1)


def formula(q: Tensor, k: Tensor, v: Tensor, documents_BT: Tensor | None) -> Tensor:
    """softmax(q·k / sqrt(K)) · v over earlier tokens of the same document."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    if documents_BT is not None:
        seen = seen & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("kernel", CPU_KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("several", [False, True])
def test_outputs_and_gradients_are_the_formulas(kernel: Kernel, shape: tuple[int, ...], several: bool) -> None:
    documents_BT = document_numbers(shape[0], shape[3]) if several else torch.zeros(shape[0], shape[3])
    inputs, wide = qkv(shape), qkv(shape, torch.float64)
    out = KERNELS[kernel](*inputs, AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=torch.float32))
    wanted = formula(*wide, documents_BT)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad(out, inputs, pull)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    for got, right in zip(gradients, torch.autograd.grad(wanted, wide, pull.double()), strict=True):
        torch.testing.assert_close(got.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_blocks_of_few_heads_give_what_blocks_of_many_give(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sequences are computed a few heads at a time."""
    shape = (2, 6, 2, 150, 8)
    documents_BT = document_numbers(2, 150) if several else torch.zeros(2, 150)
    attention_mask = AttentionMask.from_documents(documents_BT, kernel="blocked", dtype=torch.float32)

    def results() -> list[Tensor]:
        inputs = qkv(shape)
        out = KERNELS["blocked"](*inputs, attention_mask)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    many = results()
    monkeypatch.setattr(model.blocked, "SCORES_AT_ONCE", 1)
    for few, all_at_once in zip(results(), many, strict=True):
        torch.testing.assert_close(few, all_at_once, rtol=1e-6, atol=1e-6)


# torch 2.14's own opcheck reads .grad of tensors that are no leaves.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_blocked_is_a_valid_operator() -> None:
    """The operator is lawful for torch.compile: right shapes without values, a gradient, unchanged inputs."""
    q, k, v = (each.flatten(0, 1).detach().requires_grad_() for each in qkv((2, 4, 2, 70, 8)))
    torch.library.opcheck(model.blocked._attend, (q, k, v, None, None))
    attention_mask = AttentionMask.from_documents(document_numbers(2, 70), kernel="blocked", dtype=torch.float32)
    assert attention_mask is not None
    assert attention_mask.mask_B1TT is not None
    torch.library.opcheck(model.blocked._attend, (q, k, v, attention_mask.mask_B1TT[:, 0], attention_mask.first_key_BT))


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_large_scores_do_not_overflow(kernel: Kernel) -> None:
    q, k, v = (each.detach() * 100 for each in qkv((1, 2, 2, 70, 16)))
    wanted = formula(q.double(), k.double(), v.double(), None)
    torch.testing.assert_close(KERNELS[kernel](q, k, v, None).double(), wanted, rtol=1e-3, atol=1e-3)


def test_a_mask_is_built_for_each_kernel() -> None:
    documents_BT = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    one = torch.zeros(2, 5, dtype=torch.int32)
    kernels: list[Kernel] = ["sdpa", "blocked", "varlen", "flash"]
    assert all(AttentionMask.from_documents(one, kernel=kernel, dtype=torch.float32) is None for kernel in kernels)
    packed: list[Kernel] = ["varlen", "flash", "flash3", "flash4"]
    for kernel in packed:
        mask = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=torch.bfloat16)
        assert mask is not None
        assert mask.mask_B1TT is None  # nothing of T x T
        assert mask.document_starts is not None
        assert (mask.document_starts.tolist(), mask.longest_document) == ([0, 2, 5, 10], 5)
        assert mask.document_starts.dtype == torch.int32
    blocked = AttentionMask.from_documents(documents_BT, kernel="blocked", dtype=torch.float32)
    assert blocked is not None
    assert blocked.first_key_BT is not None
    assert blocked.first_key_BT.tolist() == [[0, 0, 2, 2, 2], [0, 0, 0, 0, 0]]
    sdpa = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.bfloat16)
    assert sdpa is not None
    assert sdpa.mask_B1TT is not None
    assert sdpa.mask_B1TT.dtype == torch.bfloat16
    assert (sdpa.mask_B1TT[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("options", [{}, {"qk_norm": RMSNormConfig()}])
def test_tokens_do_not_see_later_ones(options: dict[str, Any]) -> None:
    attention = Attention(
        32, 4, 2, **{"bias": True, "qk_norm": None, "layers": TorchLayers(), "attend": KERNELS["sdpa"], **options}
    )
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x_TBD = torch.randn(9, 2, 32, generator=torch.Generator().manual_seed(2))
    rotation = RoPEConfig().rotation(torch.arange(9).expand(2, 9), 8)
    changed_TBD = x_TBD.clone()
    changed_TBD[5:] += 1
    before, after = attention(x_TBD, rotation, None), attention(changed_TBD, rotation, None)
    torch.testing.assert_close(before[:5], after[:5], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[5:], after[5:])


class Recording(TorchFunctionMode):
    """Records the arguments of torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[int], bool]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append(([each.shape[1] for each in args], kwargs["enable_gqa"]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("device", "several", "dtype", "expanded"),
    [
        ("cuda", True, torch.bfloat16, True),
        ("cuda", False, torch.float32, True),
        ("cuda", False, torch.bfloat16, False),
        ("cpu", True, torch.float32, False),
    ],
)
def test_on_a_gpu_groups_keep_a_kernel_that_holds_no_scores(
    device: str, several: bool, dtype: torch.dtype, expanded: bool
) -> None:
    """Torch's kernels that do not hold T x T take groups only without a mask and in 16 bits."""
    with FakeTensorMode():  # shapes and devices without values: a GPU is not needed
        q, k, v = (torch.empty(2, heads, 16, 8, device=device, dtype=dtype) for heads in (6, 2, 2))
        attention_mask = (
            AttentionMask(mask_B1TT=torch.empty(2, 1, 16, 16, device=device, dtype=dtype)) if several else None
        )
        with Recording() as recording:
            assert KERNELS["sdpa"](q, k, v, attention_mask).shape == q.shape
    assert recording.calls == [([6, 6, 6], False) if expanded else ([6, 2, 2], True)]
