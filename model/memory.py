"""The bytes that a rank holds of a model in training, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.recompute import Recompute
from model.size import local_parameters

BYTES_FLOAT32, BYTES_BFLOAT16 = 4, 2
# Elements of the buffer in which ZeRO 2 and 3 reduce gradients, if the rank holds as many: DeepSpeed's default.
REDUCE_BUCKET_ELEMENTS = 500_000_000


@dataclass(frozen=True)
class LayoutSizes:
    """The layout, the recomputation and the precision that the bytes of one rank depend on."""

    tensor: int = 1
    pipeline: int = 1
    virtual_stages: int = 1
    data: int = 1
    zero: int = 1  # what the data ranks share: 1 optimizer state, 2 gradients too, 3 weights too
    sequence: bool = False
    recompute: Recompute = "none"
    bfloat16: bool = False
    device_type: str = "cpu"
    fused_loss: bool = False  # the cross-entropy makes gradients of logits without a copy in float32

    @property
    def element(self) -> int:
        """Bytes of a weight or an activation."""
        return BYTES_BFLOAT16 if self.bfloat16 else BYTES_FLOAT32

    @property
    def residual_share(self) -> float:
        """The share of the residual stream that a tensor rank holds: all, or its part of the sequence."""
        return 1 / self.tensor if self.sequence else 1.0


@dataclass(frozen=True)
class RankBytes:
    """Bytes that the fullest rank holds between and within steps."""

    weights: int
    gradients: int  # with the buffer in which ZeRO 2 and 3 reduce them
    optimizer: int  # masters if weights are bfloat16 or ZeRO is 2 or 3, and the moments
    activations: int  # kept for the backward pass, of the micro-batches in flight
    build: int  # held at most while model and optimizer are built; ZeRO 2 allocates gradients in its first step
    saved: int  # copied to the host when a checkpoint is saved: masters and moments

    @property
    def total(self) -> int:
        """The sum; a layer's temporary buffers, document masks and the allocator's overhead come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_bytes(
    config: ModelConfig,
    layout: LayoutSizes,
    *,
    seq_length: int,
    micro_batch_size: int,
    micro_batches: int | None = None,
    moments: int = 2,
    mask_bytes: int = 0,
) -> RankBytes:
    """Returns the bytes of the fullest rank, for an optimizer that keeps `moments` numbers per weight.

    `mask_bytes`: what transforms of its update keep per weight, on top.

    `micro_batches` a step: fewer than the pipeline's stages leave some of them empty. Gradients are float32 sums.
    """

    def of_stage(stage: int) -> RankBytes:
        first, last = stage == 0, stage == layout.pipeline - 1
        held = local_parameters(
            config,
            num_layers=stage_layers(config, layout, stage),
            seq_length=seq_length,
            first=first,
            last=last,
            tp_size=layout.tensor,
        )
        copied = 0.0  # the weight of a tied head, which only the first stage updates
        if config.tied_embeddings and last and not first:
            copied = config.vocabulary * config.hidden_size / layout.tensor
        shares = [layout.data if layout.zero >= level else 1 for level in (3, 2, 1)]
        gradients = held * BYTES_FLOAT32 / shares[1]
        if layout.zero >= 2:
            gradients += min(held, REDUCE_BUCKET_ELEMENTS) * (BYTES_FLOAT32 if layout.zero == 3 else layout.element)
        numbers = moments + (layout.bfloat16 or layout.zero >= 2)
        weights = held * layout.element / shares[0]
        optimizer = (held - copied) * (BYTES_FLOAT32 * numbers + mask_bytes) / shares[2]
        return RankBytes(
            weights=round(weights),
            gradients=round(gradients),
            optimizer=round(optimizer),
            build=round(weights + optimizer + (gradients if layout.zero != 2 else 0)),
            saved=round((held - copied) * (BYTES_FLOAT32 * (moments + 1) + mask_bytes) / shares[2]),
            activations=round(
                _activations(config, layout, stage, seq_length * micro_batch_size, micro_batches=micro_batches)
            ),
        )

    return max((of_stage(stage) for stage in range(layout.pipeline)), key=lambda rank: rank.total)


def logits_bytes(config: ModelConfig, layout: LayoutSizes, *, tokens: int) -> int:
    """Returns the bytes of the logits of a micro-batch of `tokens`, as many as are held at once.

    They have the precision of the weights, and become their own gradient. With bfloat16 weights the plain form
    does this in a copy in float32.
    """
    bytes_each = layout.element + (BYTES_FLOAT32 if layout.bfloat16 and not layout.fused_loss else 0)
    vocabulary = config.vocabulary // layout.tensor
    at_once = config.objective.tokens_at_once(tokens, device_type=layout.device_type, vocabulary=vocabulary)
    return at_once * vocabulary * bytes_each


def block_bytes_per_token(config: ModelConfig, layout: LayoutSizes) -> float:
    """Returns what one block keeps of one token for its backward pass, on one rank.

    none: the inputs of both norms, of every matrix product, of attention, and of the MLP's activation. selective:
    all but the norms' and the activation's outputs. full: the block's input. The tensor ranks share what stands between
    the sharded matrices; what stands outside they share only under sequence parallelism.
    """
    hidden, kv, ffn = config.hidden_size, config.kv_heads * config.head_size, config.ffn_size
    if layout.recompute == "full":
        return hidden * layout.residual_share * layout.element
    inputs = config.mlp.matrices() - 1  # gate and up, or up
    sharded = hidden + 2 * kv + hidden + inputs * ffn  # q, k, v (after rotation), attention's output; gate and up
    outside = 2 * hidden
    if layout.recompute == "none":
        sharded += inputs * ffn
        outside += 2 * hidden
    statistics = config.num_heads / layout.tensor + 2 * config.norm.statistics * layout.residual_share
    if config.qk_norm:
        sharded += hidden + kv
        statistics += (config.num_heads + config.kv_heads) * config.norm.statistics / layout.tensor
    return (sharded / layout.tensor + outside * layout.residual_share) * layout.element + statistics * BYTES_FLOAT32


def _activations(
    config: ModelConfig, layout: LayoutSizes, stage: int, tokens: int, *, micro_batches: int | None
) -> float:
    """Returns the bytes of a stage's blocks for the micro-batches in flight (1F1B, interleaved), and of the head."""
    chunks_in_flight = layout.pipeline - stage
    if layout.virtual_stages > 1:
        chunks_in_flight = 2 * (layout.pipeline - stage - 1) + (layout.virtual_stages - 1) * layout.pipeline + 1
    if micro_batches is not None:
        chunks_in_flight = min(chunks_in_flight, micro_batches * layout.virtual_stages)
    layers = stage_layers(config, layout, stage) / layout.virtual_stages
    position = config.position.kept_per_token(config.head_size) * BYTES_FLOAT32
    kept = chunks_in_flight * tokens * (layers * block_bytes_per_token(config, layout) + position)
    if layout.recompute == "full":  # the block whose backward pass runs holds all of its activations
        kept += tokens * block_bytes_per_token(config, _without_recomputation(layout))
    if stage == layout.pipeline - 1:
        # The final norm's input, and the gradients of its output and of the head, which the loss has computed.
        kept += tokens * config.hidden_size * (layout.residual_share + 1) * layout.element
        kept += config.vocabulary * config.hidden_size / layout.tensor * layout.element
    return kept


def _without_recomputation(layout: LayoutSizes) -> LayoutSizes:
    return LayoutSizes(tensor=layout.tensor, sequence=layout.sequence, bfloat16=layout.bfloat16)


def stage_layers(config: ModelConfig, layout: LayoutSizes, stage: int) -> int:
    """Counts a stage's layers: chunks are dealt out to the stages in turn, the larger chunks first."""
    least, larger_chunks = divmod(config.num_layers, layout.pipeline * layout.virtual_stages)
    larger_of_stage = len(range(stage, larger_chunks, layout.pipeline))
    return layout.virtual_stages * least + larger_of_stage
