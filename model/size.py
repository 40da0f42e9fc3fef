"""How large a model is and what a token costs: arithmetic only, no tensor is made.

Conventions. A matrix product of [m, k] and [k, n] is 2·m·k·n FLOPs. Backward costs twice the forward. Attention is
counted as its causal half. Norms, activations and the softmax are not counted, nor is what recomputation does again
(so that MFU compares runs, and hardware utilisation is higher under recomputation).
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.norms import LayerNormConfig
from model.position import LearnedConfig
from model.recompute import Recompute

BYTES_FLOAT32, BYTES_BFLOAT16 = 4, 2


def matrix_parameters_per_layer(config: ModelConfig) -> int:
    """Elements of one block's matrices: q, k, v, out and the MLP's."""
    hidden, kv = config.hidden_size, config.kv_heads * config.head_size
    return 2 * hidden * hidden + 2 * hidden * kv + config.mlp.matrices() * hidden * config.ffn_size


def parameters(config: ModelConfig, *, seq_length: int) -> int:
    """All parameters; a tied head counts once. `seq_length` matters for learned positions only."""
    hidden, vocabulary = config.hidden_size, config.vocabulary
    norm = hidden * (2 if isinstance(config.norm, LayerNormConfig) and config.bias else 1)
    tables = vocabulary * hidden * (1 if config.tied_embeddings else 2)
    if isinstance(config.position, LearnedConfig):
        tables += seq_length * hidden
    return config.num_layers * (matrix_parameters_per_layer(config) + 2 * norm + _vectors(config)) + norm + tables


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
    data: int = 1
    zero: int = 1
    sequence: bool = False
    recompute: Recompute = "none"
    bfloat16: bool = False


@dataclass(frozen=True)
class RankBytes:
    """Bytes that the fullest rank holds between and within steps."""

    weights: int
    gradients: int
    optimizer: int  # masters where weights are bfloat16, and two moments
    activations: int  # of the micro-batches that are in flight

    @property
    def total(self) -> int:
        """All of it; the allocator's own losses come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_bytes(
    config: ModelConfig, layout: LayoutSizes, *, seq_length: int, micro_batch_size: int, moments: int = 2
) -> RankBytes:
    """Bytes of the fullest rank, the first stage's or the last's, for an optimizer of `moments` moments.

    Gradients are float32 sums; ZeRO 1 shares out optimizer state, 2 gradients too, 3 weights too.
    """
    tables = parameters(config, seq_length=seq_length) - config.num_layers * _layer_parameters(config)
    on_a_stage = tables if layout.pipeline == 1 or config.tied_embeddings else tables / 2
    held = (-(-config.num_layers // layout.pipeline) * _layer_parameters(config) + on_a_stage) / layout.tensor
    weight = BYTES_BFLOAT16 if layout.bfloat16 else BYTES_FLOAT32
    state = BYTES_FLOAT32 * (moments + layout.bfloat16)

    def shared(bytes_per_parameter: int, from_zero: int) -> int:
        return round(held * bytes_per_parameter / (layout.data if layout.zero >= from_zero else 1))

    in_flight = layout.pipeline  # 1F1B: the first stage holds as many micro-batches as there are stages
    layers = -(-config.num_layers // layout.pipeline)
    per_token = layers * activation_elements_per_token(config, layout) * weight
    return RankBytes(
        weights=shared(weight, 3),
        gradients=shared(BYTES_FLOAT32, 2),
        optimizer=shared(state, 1),
        activations=round(per_token * seq_length * micro_batch_size * in_flight),
    )


def activation_elements_per_token(config: ModelConfig, layout: LayoutSizes) -> float:
    """Numbers a block keeps of one token for its backward pass, on one rank.

    none: the inputs of both norms, of every matrix product, of attention, and of the MLP's activation. selective:
    without the norms' and the activation's outputs. full: the block's input. What stands between the cut matrices is
    shared by the tensor ranks; what stands outside them only under sequence parallelism.
    """
    hidden, kv, ffn = config.hidden_size, config.kv_heads * config.head_size, config.ffn_size
    outside = 1 / layout.tensor if layout.sequence else 1.0
    if layout.recompute == "full":
        return hidden * outside
    attention = (hidden + 2 * kv + hidden) / layout.tensor  # q, k, v (after rotation) and what attention gives
    mlp_inputs = (config.mlp.matrices() - 1) * ffn / layout.tensor  # gate and up, or up
    kept = 2 * hidden * outside + attention + mlp_inputs
    if layout.recompute == "none":
        kept += 2 * hidden * outside + (config.mlp.matrices() - 1) * ffn / layout.tensor
    return kept


def _layer_parameters(config: ModelConfig) -> int:
    norm = config.hidden_size * (2 if isinstance(config.norm, LayerNormConfig) and config.bias else 1)
    return matrix_parameters_per_layer(config) + 2 * norm + _vectors(config)


def _vectors(config: ModelConfig) -> int:
    """Biases of one block's matrices, and the gains of QK-norm."""
    hidden, kv = config.hidden_size, config.kv_heads * config.head_size
    biases = (2 * hidden + 2 * kv + (config.mlp.matrices() - 1) * config.ffn_size + hidden) if config.bias else 0
    return biases + (2 * config.head_size if config.qk_norm else 0)
