"""How a token's position enters the model.

Shapes: T sequence, B batch, H heads, K head size, D hidden_size.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from model.parameter import ParamSpec, declare
from model.precision import at_least_fp32, cast
from settings import Registry, Settings


class Rotation(NamedTuple):
    """cos and sin of each feature's angle, fp32, [T, B, 1, K]: computed once per micro-batch, for all layers."""

    cos: Tensor
    sin: Tensor


class PositionConfig(Settings):
    """The contract of a kind of position, which overrides the methods that it uses."""

    name: str = Field(description="Name of the kind of position.")

    def table(self, seq_length: int, hidden_size: int) -> nn.Module | None:
        """Builds a module from positions [B, T] to [T, B, D], which is added to the embeddings, or None.

        Its parameters declare a replicated gradient: it is applied before sequence parallelism splits the sequence.
        """
        return None

    def rotation(self, positions_BT: Tensor, head_size: int) -> Rotation | None:
        """Returns the angles by which queries and keys are rotated, or None."""
        return None

    def kept_per_token(self, head_size: int) -> int:
        """Returns how many numbers in fp32 the rotation has per token, for all layers together."""
        return 0


POSITIONS = Registry("position", room="model", base=PositionConfig)


@POSITIONS.register
class RoPEConfig(PositionConfig):
    """Rotary positions (arXiv 2104.09864): features i and i + K/2 turn by position · theta^(-2i/K), as in Llama."""

    name: Literal["rope"] = "rope"
    theta: float = Field(
        10000.0, gt=1, description="Base of the wavelengths; the slowest pair turns by 1/theta, about."
    )

    def rotation(self, positions_BT: Tensor, head_size: int) -> Rotation:
        index = torch.arange(0, head_size, 2, device=positions_BT.device, dtype=torch.float32)
        speed = 1.0 / (self.theta ** (index / head_size))
        angles = positions_BT.transpose(0, 1)[..., None, None].float() * torch.cat((speed, speed))
        return Rotation(angles.cos(), angles.sin())

    def kept_per_token(self, head_size: int) -> int:
        return 2 * head_size


@POSITIONS.register
class LearnedConfig(PositionConfig):
    """A learned vector for each position up to train.seq_length, as in GPT-2."""

    name: Literal["learned"] = "learned"

    def table(self, seq_length: int, hidden_size: int) -> nn.Module:
        return LearnedPositions(seq_length, hidden_size)


@POSITIONS.register
class NoPositionConfig(PositionConfig):
    """No position: the model knows the order of tokens from the causal mask alone."""

    name: Literal["none"] = "none"


class LearnedPositions(nn.Module):
    """Positions [B, T] -> [T, B, D]."""

    def __init__(self, seq_length: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = declare(torch.empty(seq_length, hidden_size), ParamSpec(init="normal", gradient="replicated"))

    def forward(self, positions_BT: Tensor) -> Tensor:
        return nn.functional.embedding(positions_BT.transpose(0, 1), self.weight)


def rotate(x_TBHK: Tensor, rotation: Rotation) -> Tensor:
    """Rotates each pair (i, i + K/2) of every head by its position's angle, in fp32; the dtype stays."""
    out: Tensor = _Rotate.apply(x_TBHK, *rotation)  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the inverse rotation: x is not kept, and memory is read half as often."""

    @staticmethod
    def forward(ctx: Any, x_TBHK: Tensor, cos_TB1K: Tensor, sin_TB1K: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TB1K, sin_TB1K)
        # A copy in fp32 too: the result of the in-place operations must not be returned (model/precision.py).
        return _turn(x_TBHK, cos_TB1K, sin_TB1K, 1.0).to(x_TBHK.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad_TBHK: Tensor) -> tuple[Tensor, None, None]:
        cos_TB1K, sin_TB1K = ctx.saved_tensors
        return cast(_turn(grad_TBHK, cos_TB1K, sin_TB1K, -1.0), grad_TBHK.dtype), None, None


def _turn(x_TBHK: Tensor, cos_TB1K: Tensor, sin_TB1K: Tensor, sense: float) -> Tensor:
    """Returns the rotated features in fp32, or in fp64."""
    wide_TBHK = at_least_fp32(x_TBHK)
    half = x_TBHK.shape[-1] // 2
    out_TBHK = wide_TBHK * cos_TB1K
    out_TBHK[..., :half].addcmul_(wide_TBHK[..., half:], sin_TB1K[..., :half], value=-sense)
    out_TBHK[..., half:].addcmul_(wide_TBHK[..., :half], sin_TB1K[..., half:], value=sense)
    return out_TBHK
