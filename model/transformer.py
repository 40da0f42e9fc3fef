"""The transformer: a stack of pre-norm blocks, or one pipeline chunk of it.

Parameter names are global: a chunk that holds layers 8 to 11 calls them layers.8 to layers.11.

Shapes: t, T sequence (a rank's part under sequence parallelism, full), B batch, D hidden_size,
v a rank's shard of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import KERNELS, Attend, Attention, AttentionMask
from model.config import ModelConfig
from model.layers import Layers, TorchLayers
from model.loss_kernels import LossKernel, torch_loss
from model.objectives import LossSums
from model.parameter import specs_of
from model.position import Rotation
from model.recompute import Recompute, recomputing, saving
from model.token_scores import TokenScores, token_scores


class Block(nn.Module):
    """h = x + attention(scale · norm(x)), y = h + mlp(scale · norm(h)); scale is 1 or LayerNorm Scaling's 1/sqrt(l)."""

    def __init__(
        self, config: ModelConfig, layer: int, *, layers: Layers, attend: Attend, recompute: Recompute
    ) -> None:
        super().__init__()
        scale = config.norm_scale(layer)
        self._full = recompute == "full"
        self._save_or_recompute = recomputing if recompute == "selective" else saving
        self.attention_norm = config.norm.build(config.hidden_size, bias=config.bias, scale=scale)
        self.attention = Attention(
            config.hidden_size,
            config.num_heads,
            config.kv_heads,
            bias=config.bias,
            qk_norm=config.norm if config.qk_norm else None,
            layers=layers,
            attend=attend,
            save_or_recompute=self._save_or_recompute,
        )
        self.mlp_norm = config.norm.build(config.hidden_size, bias=config.bias, scale=scale)
        self.mlp = config.mlp.build(
            config.hidden_size,
            config.ffn_size,
            bias=config.bias,
            layers=layers,
            save_or_recompute=self._save_or_recompute,
        )

    def forward(self, x_tBD: Tensor, rotation: Rotation | None, attention_mask: AttentionMask | None) -> Tensor:
        if self._full:
            # There is no dropout, and so no random state to keep.
            out_tBD: Tensor = checkpoint(
                self._run, x_tBD, rotation, attention_mask, use_reentrant=False, preserve_rng_state=False
            )
            return out_tBD
        return self._run(x_tBD, rotation, attention_mask)

    def _run(self, x_tBD: Tensor, rotation: Rotation | None, attention_mask: AttentionMask | None) -> Tensor:
        normed_tBD = self.attention_norm(x_tBD)
        with self._save_or_recompute(normed_tBD, lambda: self.attention_norm(x_tBD)):
            h_tBD = x_tBD + self.attention(normed_tBD, rotation, attention_mask)
        normed_tBD = self.mlp_norm(h_tBD)
        with self._save_or_recompute(normed_tBD, lambda: self.mlp_norm(h_tBD)):
            y_tBD: Tensor = h_tBD + self.mlp(normed_tBD)
        return y_tBD


class Transformer(nn.Module):
    """The layers of `layer_range`, with the embedding if `first` and the final norm and head if `last`."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        seq_length: int,
        layers: Layers,
        attend: Attend,
        layer_range: range | None = None,
        first: bool = True,
        last: bool = True,
        recompute: Recompute = "none",
        loss_kernel: LossKernel = torch_loss,
    ) -> None:
        super().__init__()
        self.config = config
        self._layers = layers
        self._loss_kernel = loss_kernel
        self.embedding: nn.Module | None = None
        self.position: nn.Module | None = None
        self.final_norm: nn.Module | None = None
        self.head: nn.Module | None = None
        if first or (last and config.tied_embeddings):
            self.embedding = layers.embedding(config.vocabulary, config.hidden_size)
        if first:
            self.position = config.position.table(seq_length, config.hidden_size)
        self.first = first
        self.last = last
        self.layers = nn.ModuleDict(
            {
                str(layer): Block(config, layer, layers=layers, attend=attend, recompute=recompute)
                for layer in (range(config.num_layers) if layer_range is None else layer_range)
            }
        )
        if last:
            self.final_norm = config.norm.build(config.hidden_size, bias=config.bias)
            if not config.tied_embeddings:
                self.head = layers.column(config.hidden_size, config.vocabulary, bias=False)
        specs_of(self)  # AssertionError if a parameter has no declaration

    def compile_blocks(self) -> None:
        """Compiles each block by torch.compile: one compilation serves all layers, and takes seconds, not minutes."""
        for block in self.layers.values():
            block.compile()

    def forward(
        self, tokens_BT: Tensor, attention_mask: AttentionMask | None, positions_BT: Tensor, x_tBD: Tensor | None = None
    ) -> Tensor:
        """Returns x [t, B, D]. The first chunk embeds the tokens; others take the previous chunk's output as `x_tBD`.

        The last chunk's output is after the final norm, for `loss` or `logits`.
        """
        if self.first:
            x_tBD = self._embed(tokens_BT, positions_BT)
        assert x_tBD is not None, "a chunk that is not the first needs the output of the previous one"
        rotation = self.config.position.rotation(positions_BT, self.config.head_size)
        for block in self.layers.values():
            x_tBD = block(x_tBD, rotation, attention_mask)
        assert x_tBD is not None
        if self.final_norm is not None:
            x_tBD = self.final_norm(x_tBD)
        return x_tBD

    def loss(self, x_tBD: Tensor, targets_BT: Tensor, weights_BT: Tensor) -> LossSums:
        """Returns the objective of the last chunk's output; weights are mask / (global count of unmasked tokens)."""
        x_TBD = self._layers.enter(x_tBD)
        return self.config.objective.loss(
            x_TBD.flatten(0, 1),
            self._head_weight(),
            targets_BT.transpose(0, 1).flatten(),
            weights_BT.transpose(0, 1).flatten(),
            self._layers,
            kernel=self._loss_kernel,
        )

    def token_scores(self, x_tBD: Tensor, targets_BT: Tensor) -> TokenScores:
        """Returns the scores [B, T] of the last chunk's output at predicting each target. There is no gradient."""
        x_TBD = self._layers.enter(x_tBD)
        scores = token_scores(x_TBD.flatten(0, 1), self._head_weight(), targets_BT.mT.flatten(), self._layers)
        return TokenScores(*(each_N.view(x_TBD.shape[:2]).mT for each_N in scores))

    def logits(self, x_tBD: Tensor) -> Tensor:
        """Returns [T, B, v]: the logits of this rank's shard of the vocabulary."""
        return nn.functional.linear(self._layers.enter(x_tBD), self._head_weight())

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        assert self.embedding is not None
        x_TBD: Tensor = self.embedding(tokens_BT)
        if self.position is not None:
            x_TBD = x_TBD + self.position(positions_BT)
        return self._layers.scatter_sequence(x_TBD)

    def _head_weight(self) -> Tensor:
        head = self.embedding if self.head is None else self.head
        assert self.last
        assert head is not None
        assert isinstance(head.weight, Tensor)
        return head.weight


def without_values(
    config: ModelConfig,
    *,
    seq_length: int,
    layer_range: range | None = None,
    first: bool = True,
    last: bool = True,
) -> Transformer:
    """Builds a model on the meta device: it has names, shapes and declarations of full parameters, and no memory."""
    with torch.device("meta"):
        return Transformer(
            config,
            seq_length=seq_length,
            layers=TorchLayers(),
            attend=KERNELS["sdpa"],
            layer_range=layer_range,
            first=first,
            last=last,
        )
