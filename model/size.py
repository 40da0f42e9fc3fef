"""How large a model is and what a token costs: arithmetic only, no tensor is made.

Conventions. A matrix product of [m, k] and [k, n] is 2·m·k·n FLOPs. Backward costs twice the forward. Attention is
counted as its causal half. Norms, activations and the softmax are not counted, nor is what recomputation does again
(so that MFU compares runs, and hardware utilisation is higher under recomputation).
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.recompute import Recompute

BYTES_FLOAT32, BYTES_BFLOAT16 = 4, 2


def matrix_parameters_per_layer(config: ModelConfig) -> int:
    """Elements of one block's matrices: q, k, v, out and the MLP's."""
    hidden, kv = config.hidden_size, config.kv_heads * config.head_size
    return 2 * hidden * hidden + 2 * hidden * kv + config.mlp.matrices() * hidden * config.ffn_size


def layers_per_chunk(num_layers: int, chunks: int) -> list[range]:
    """The layers of each chunk in the order of the data's flow: as even as can be, the first chunks taking the rest."""
    sizes = [num_layers // chunks + (i < num_layers % chunks) for i in range(chunks)]
    starts = [sum(sizes[:i]) for i in range(chunks)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def parameters(config: ModelConfig, *, seq_length: int) -> int:
    """All parameters; a tied head counts once. `seq_length` matters for learned positions only."""
    return round(_stage_parameters(config, LayoutSizes(), 0, seq_length))


def non_embedding_parameters(config: ModelConfig) -> int:
    """Elements of the blocks' matrices: the N of scaling laws that leave embeddings out (arXiv 2503.04715)."""
    return config.num_layers * matrix_parameters_per_layer(config)


def flops_per_token(config: ModelConfig, seq_length: int) -> int:
    """Forward and backward of one token in rows of `seq_length`, head included."""
    products = 2 * (non_embedding_parameters(config) + config.vocabulary * config.hidden_size)
    attention = config.num_layers * 2 * seq_length * config.hidden_size  # q·k and weights·v, each T/2 keys on average
    return 3 * (products + attention)


@dataclass(frozen=True)
class LayoutSizes:
    """What the bytes of one rank depend on. `data` ranks share what `zero` says."""

    tensor: int = 1
    pipeline: int = 1
    virtual_stages: int = 1
    data: int = 1
    zero: int = 1
    sequence: bool = False
    recompute: Recompute = "none"
    bfloat16: bool = False

    @property
    def element(self) -> int:
        """Bytes of a weight or an activation."""
        return BYTES_BFLOAT16 if self.bfloat16 else BYTES_FLOAT32

    @property
    def uncut(self) -> float:
        """The share that a rank holds of what is not between cut matrices: all, or a slice of the sequence."""
        return 1 / self.tensor if self.sequence else 1.0


@dataclass(frozen=True)
class RankBytes:
    """Bytes that the fullest rank holds between and within steps."""

    weights: int
    gradients: int
    optimizer: int  # masters where weights are bfloat16, and the moments
    activations: int  # kept for the backward pass, of the micro-batches in flight

    @property
    def total(self) -> int:
        """All of it; a layer's passing buffers, document masks and the allocator's own losses come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_bytes(
    config: ModelConfig,
    layout: LayoutSizes,
    *,
    seq_length: int,
    micro_batch_size: int,
    micro_batches: int | None = None,
    moments: int = 2,
) -> RankBytes:
    """Bytes of the fullest rank, whichever stage's that is, for an optimizer that keeps `moments` numbers a weight.

    `micro_batches` a step, where fewer than the stages leave some of them empty. Gradients are float32 sums; ZeRO 1
    shares out optimizer state, 2 gradients too, 3 weights too.
    """

    def of_stage(stage: int) -> RankBytes:
        held = _stage_parameters(config, layout, stage, seq_length)
        copied = 0.0  # the weight of a tied head, which the first stage steps
        if config.tied_embeddings and 0 < stage == layout.pipeline - 1:
            copied = config.vocabulary * config.hidden_size / layout.tensor
        shares = [layout.data if layout.zero >= level else 1 for level in (3, 2, 1)]
        return RankBytes(
            weights=round(held * layout.element / shares[0]),
            gradients=round(held * BYTES_FLOAT32 / shares[1]),
            optimizer=round((held - copied) * BYTES_FLOAT32 * (moments + layout.bfloat16) / shares[2]),
            activations=round(
                _activations(config, layout, stage, seq_length * micro_batch_size, micro_batches=micro_batches)
            ),
        )

    return max((of_stage(stage) for stage in range(layout.pipeline)), key=lambda rank: rank.total)


def block_bytes_per_token(config: ModelConfig, layout: LayoutSizes) -> float:
    """What one block keeps of one token for its backward pass, on one rank.

    none: the inputs of both norms, of every matrix product, of attention, and of the MLP's activation. selective:
    without the norms' and the activation's outputs. full: the block's input. What stands between the cut matrices is
    shared by the tensor ranks; what stands outside them only under sequence parallelism.
    """
    hidden, kv, ffn = config.hidden_size, config.kv_heads * config.head_size, config.ffn_size
    if layout.recompute == "full":
        return hidden * layout.uncut * layout.element
    inputs = config.mlp.matrices() - 1  # gate and up, or up
    cut = hidden + 2 * kv + hidden + inputs * ffn  # q, k, v (after rotation) and what attention gives; gate and up
    outside = 2 * hidden
    if layout.recompute == "none":
        cut += inputs * ffn
        outside += 2 * hidden
    statistics = config.num_heads / layout.tensor + 2 * config.norm.statistics * layout.uncut
    if config.qk_norm:
        cut += hidden + kv
        statistics += (config.num_heads + config.kv_heads) * config.norm.statistics / layout.tensor
    return (cut / layout.tensor + outside * layout.uncut) * layout.element + statistics * BYTES_FLOAT32


def _activations(
    config: ModelConfig, layout: LayoutSizes, stage: int, tokens: int, *, micro_batches: int | None
) -> float:
    """Of a stage's blocks for the micro-batches in flight (1F1B, interleaved 1F1B), and of the model's end."""
    chunks_in_flight = layout.pipeline - stage
    if layout.virtual_stages > 1:
        chunks_in_flight = 2 * (layout.pipeline - stage - 1) + (layout.virtual_stages - 1) * layout.pipeline + 1
    if micro_batches is not None:
        chunks_in_flight = min(chunks_in_flight, micro_batches * layout.virtual_stages)
    layers = _stage_layers(config, layout, stage) / layout.virtual_stages
    position = config.position.kept_per_token(config.head_size) * BYTES_FLOAT32
    kept = chunks_in_flight * tokens * (layers * block_bytes_per_token(config, layout) + position)
    if layout.recompute == "full":  # the block whose backward pass runs has all of its own
        kept += tokens * block_bytes_per_token(config, _without_recomputation(layout))
    if stage == layout.pipeline - 1:
        # The final norm's input; the gradients that the loss has made of its output and of the head.
        kept += tokens * config.hidden_size * (layout.uncut + 1) * layout.element
        kept += config.vocabulary * config.hidden_size / layout.tensor * layout.element
    return kept


def _without_recomputation(layout: LayoutSizes) -> LayoutSizes:
    return LayoutSizes(tensor=layout.tensor, sequence=layout.sequence, bfloat16=layout.bfloat16)


def _stage_layers(config: ModelConfig, layout: LayoutSizes, stage: int) -> int:
    """Chunks go round the stages."""
    chunks = layers_per_chunk(config.num_layers, layout.pipeline * layout.virtual_stages)
    return sum(len(layers) for layers in chunks[stage :: layout.pipeline])


def _stage_parameters(config: ModelConfig, layout: LayoutSizes, stage: int, seq_length: int) -> float:
    """Parameters that one tensor rank of a stage holds."""
    first, last = stage == 0, stage == layout.pipeline - 1
    hidden, kv = config.hidden_size, config.kv_heads * config.head_size
    norm = config.norm.parameters(hidden, bias=config.bias)
    whole, cut = 2 * norm, matrix_parameters_per_layer(config)
    if config.bias:  # of what is cut over outputs, the bias is cut too
        cut += hidden + 2 * kv + (config.mlp.matrices() - 1) * config.ffn_size
        whole += 2 * hidden
    if config.qk_norm:
        whole += 2 * config.norm.parameters(config.head_size, bias=False)
    layers = _stage_layers(config, layout, stage)
    tables = first + (last and not (first and config.tied_embeddings))
    held = layers * (whole + cut / layout.tensor) + tables * config.vocabulary * hidden / layout.tensor
    if first:
        held += config.position.parameters(seq_length, hidden)
    return held + (norm if last else 0)
