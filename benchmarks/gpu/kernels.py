"""The model's kernels in bfloat16 against float64: attention, norms, rotary, SwiGLU, cross-entropy; and their cost.

The error of an output or a gradient is the norm of the difference over the norm of the float64 one. Beside it stands
that of the plain formula, computed by torch operation by operation in bfloat16: what rounding alone costs.

Shapes: T sequence, B batch, H heads, K head size, D features, F features of the MLP, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gpu.context import Context, Row
from gpu.timing import cost_of
from model.attention import AttentionMask, attend_by
from model.cross_entropy import cross_entropy
from model.kernel_choice import AttentionSetting, choose_kernel, try_kernel
from model.layers import TorchLayers
from model.loss_kernels import LossKernelName, choose_loss_kernel, loss_kernel_by
from model.mlps import SwiGLUConfig
from model.norms import LayerNormConfig, RMSNormConfig
from model.objectives import NextTokenConfig
from model.position import RoPEConfig, rotate

Formula = Callable[..., Tensor]


def measure(context: Context) -> Iterator[Row]:
    """Yields a row for each kernel; a kernel that fails has its error instead."""
    for case in (
        _attention_1,
        _attention_7,
        _rmsnorm,
        _layernorm,
        _rotary,
        _swiglu,
        _cross_entropy,
        _cross_entropy_of_torch,
    ):
        name = case.__name__.strip("_").replace("_", " ")
        try:
            yield {"case": name, **case(context)}
        except Exception as error:
            yield {"case": name, "outcome": f"{type(error).__name__}: {str(error)[:500]}"}
        if context.device == "cuda":
            torch.cuda.empty_cache()


def _attention_1(context: Context) -> Row:
    return _attention(context, documents=1)


def _attention_7(context: Context) -> Row:
    return _attention(context, documents=7)


def _attention(context: Context, *, documents: int) -> Row:
    rows, heads, length, head_size = (1, 2, 64, 16) if context.tiny else (2, 12, 2048, 64)
    setting = AttentionSetting.on(torch.device(context.device), torch.bfloat16)
    sizes = {"heads": heads, "kv_heads": heads, "head_size": head_size}
    kernel = choose_kernel("auto", setting, lambda name: try_kernel(name, setting, **sizes))
    attend = attend_by(kernel)
    documents_BT = (torch.arange(length) * documents // length).expand(rows, length)
    mask = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=torch.bfloat16, device=context.device)
    places_T = torch.arange(length, device=context.device)
    numbers_T = documents_BT[0].to(context.device)
    hidden_TT = (places_T > places_T[:, None]) | (numbers_T != numbers_T[:, None])

    def plain(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        scores_BHTT = (q_BHTK @ k_BHTK.mT / head_size**0.5).masked_fill(hidden_TT, -torch.inf)
        return scores_BHTT.softmax(-1) @ v_BHTK

    inputs = [_random(context, rows, heads, length, head_size, seed=seed) for seed in range(3)]
    return {"kernel": kernel, **_compare(lambda q, k, v: attend(q, k, v, mask), plain, inputs)}


def _rmsnorm(context: Context) -> Row:
    return _norm(context, RMSNormConfig(), lambda x, gain: x / (x.square().mean(-1, True) + 1e-5).sqrt() * gain)


def _layernorm(context: Context) -> Row:
    def plain(x: Tensor, gain: Tensor) -> Tensor:
        return (x - x.mean(-1, True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * gain

    return _norm(context, LayerNormConfig(), plain)


def _norm(context: Context, config: RMSNormConfig | LayerNormConfig, plain: Formula) -> Row:
    tokens, features = (64, 32) if context.tiny else (32768, 768)
    module = config.build(features, bias=False).to(context.device, torch.bfloat16)
    inputs = [_random(context, tokens, features), _random(context, features, seed=1)]
    return _compare(lambda x, gain: torch.func.functional_call(module, {"weight": gain}, (x,)), plain, inputs)


def _rotary(context: Context) -> Row:
    length, rows, heads, head_size = (32, 2, 2, 16) if context.tiny else (2048, 16, 12, 64)
    positions_BT = torch.arange(length, device=context.device).expand(rows, length)
    rotation = RoPEConfig().rotation(positions_BT, head_size)

    def plain(x_TBHK: Tensor) -> Tensor:
        cos, sin = (each.to(x_TBHK.dtype) for each in rotation)
        first, second = x_TBHK.chunk(2, -1)
        return x_TBHK * cos + torch.cat((-second, first), -1) * sin

    return _compare(lambda x: rotate(x, rotation), plain, [_random(context, length, rows, heads, head_size)])


def _swiglu(context: Context) -> Row:
    tokens, features, ffn_size = (32, 16, 24) if context.tiny else (16384, 768, 2048)
    module = SwiGLUConfig().build(features, ffn_size, bias=False, layers=TorchLayers()).to(context.device)
    names = [name for name, _ in module.named_parameters()]
    weights = [_random(context, *each.shape, seed=seed) * 0.02 for seed, each in enumerate(module.parameters())]

    def run(x: Tensor, *parts: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (x[:, None],))
        return out[:, 0]

    def plain(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.silu(x @ gate.mT) * (x @ up.mT), down)

    return _compare(run, plain, [_random(context, tokens, features, seed=9), *weights])


def _cross_entropy(context: Context) -> Row:
    return _cross_entropy_by(context, choose_loss_kernel("auto", torch.device(context.device), torch.bfloat16))


def _cross_entropy_of_torch(context: Context) -> Row:
    return _cross_entropy_by(context, "torch")


def _cross_entropy_by(context: Context, name: LossKernelName) -> Row:
    kernel = loss_kernel_by(name)
    tokens, features, vocabulary = (32, 16, 128) if context.tiny else (4096, 1024, 131072)
    generator = torch.Generator().manual_seed(5)
    targets_N = torch.randint(vocabulary, (tokens,), generator=generator).to(context.device)
    weights_N = torch.full((tokens,), 1 / tokens, device=context.device)
    chunk_tokens = NextTokenConfig().tokens_at_once(tokens, device_type=context.device, vocabulary=vocabulary)

    def run(x_ND: Tensor, head_VD: Tensor) -> Tensor:
        total, _ = cross_entropy(
            *(x_ND, head_VD, targets_N, weights_N, TorchLayers()),
            z_loss=0.0,
            chunk_tokens=chunk_tokens,
            kernel=kernel,
        )
        return total

    def plain(x_ND: Tensor, head_VD: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x_ND @ head_VD.mT, targets_N)

    inputs = [_random(context, tokens, features), _random(context, vocabulary, features) * 0.02]
    return {"kernel": name, **_compare(run, plain, inputs)}


def _random(context: Context, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator(context.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=context.device, dtype=torch.bfloat16)


def _compare(run: Formula, plain: Formula, inputs: Sequence[Tensor]) -> Row:
    """Returns the largest errors of output and gradients of both forms, and the cost of forward and backward."""
    exact = _results(plain, [each.double() for each in inputs])
    errors = {
        name: max(_error(got, wanted) for got, wanted in zip(_results(form, inputs), exact, strict=True))
        for name, form in (("error", run), ("plain_error", plain))
    }
    del exact
    return {**{name: float(f"{value:.2e}") for name, value in errors.items()}, **cost_of(lambda: _results(run, inputs))}


def _results(form: Formula, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the output and the gradients of the inputs, for one random gradient of the output."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    out = form(*leaves)
    generator = torch.Generator(out.device).manual_seed(77)
    pull = torch.randn(out.shape, generator=generator, device=out.device, dtype=torch.float32).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull)]


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())
