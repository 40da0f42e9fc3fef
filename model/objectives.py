"""Objectives: from the last hidden states to the loss that is minimised.

Shapes: T sequence, B batch, N = T·B tokens, D hidden_size, V vocabulary, v a rank's shard of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from model.cross_entropy import cross_entropy, default_chunk_tokens
from model.layers import Layers
from model.loss_kernels import LossKernel, torch_loss
from settings import Registry, Settings, may_change


class LossSums(NamedTuple):
    """Sums over the tokens of a micro-batch."""

    total: Tensor  # scalar, fp32, differentiable: the weighted loss, which is minimised
    nll: Tensor  # scalar, fp32, detached: negative log-likelihood in nats, over the tokens of weight > 0


class ObjectiveConfig(Settings):
    """The contract of an objective."""

    name: str = Field(description="Name of the objective.")

    def loss(
        self,
        x_ND: Tensor,
        head_vD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        layers: Layers,
        *,
        kernel: LossKernel = torch_loss,
    ) -> LossSums:
        """Computes the sums from hidden states after the final norm and this rank's shard of the head's weight.

        `kernel` does the element-wise work on the logits, for an objective that has it.
        """
        raise AssertionError(f"{type(self).__name__} has no loss")

    def tokens_at_once(self, tokens: int, *, device_type: str, vocabulary: int) -> int:
        """Returns of how many of a micro-batch's tokens the logits are in memory at once.

        `vocabulary` is this rank's shard of it.
        """
        return tokens


OBJECTIVES = Registry("objective", room="model", base=ObjectiveConfig)


@OBJECTIVES.register
class NextTokenConfig(ObjectiveConfig):
    """sum_i weight_i · (nll_i + z_loss · lse_i²), lse the log of the softmax's denominator (arXiv 2204.02311)."""

    name: Literal["next_token"] = "next_token"
    z_loss: float = Field(0.0, ge=0, description="Weight of the squared logarithm of the softmax's denominator.")
    chunk_tokens: int | None = Field(
        None,
        gt=0,
        description="Tokens whose logits are in memory at once; null means 512 on a CPU, for its cache, and on a GPU "
        "as many as have 134 million logits on a rank (2,560 tokens of a vocabulary of 50,304).",
        json_schema_extra=may_change("it trades memory for time"),
    )

    def loss(
        self,
        x_ND: Tensor,
        head_vD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        layers: Layers,
        *,
        kernel: LossKernel = torch_loss,
    ) -> LossSums:
        chunk_tokens = self._chunk_tokens(x_ND.device.type, len(head_vD))
        total, nll = cross_entropy(
            *(x_ND, head_vD, targets_N, weights_N, layers),
            z_loss=self.z_loss,
            chunk_tokens=chunk_tokens,
            kernel=kernel,
        )
        return LossSums(total, nll)

    def tokens_at_once(self, tokens: int, *, device_type: str, vocabulary: int) -> int:
        return min(self._chunk_tokens(device_type, vocabulary), tokens)

    def _chunk_tokens(self, device_type: str, vocabulary: int) -> int:
        return default_chunk_tokens(device_type, vocabulary) if self.chunk_tokens is None else self.chunk_tokens
