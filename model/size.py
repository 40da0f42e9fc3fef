"""How many parameters a model has, and how many FLOPs a token costs.

Conventions. A matrix product of [m, k] and [k, n] is 2·m·k·n FLOPs. Backward costs twice the forward. Attention is
counted as its causal half. Norms, activations and the softmax are not counted, nor is recomputation (so that MFU
compares runs; hardware utilisation is higher under recomputation).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

from torch import nn

from model.config import ModelConfig
from model.parameter import spec_of
from model.transformer import without_values


def matrix_parameters_per_layer(config: ModelConfig) -> int:
    """Returns the elements of one block's matrices: q, k, v, out and the MLP's."""
    hidden, kv = config.hidden_size, config.kv_heads * config.head_size
    return 2 * hidden * hidden + 2 * hidden * kv + config.mlp.matrices() * hidden * config.ffn_size


def layers_per_chunk(num_layers: int, chunks: int) -> list[range]:
    """Returns the layers of each chunk in the order of the data's flow, as even as can be, the larger chunks first."""
    sizes = [num_layers // chunks + (i < num_layers % chunks) for i in range(chunks)]
    return [range(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]


def parameters(config: ModelConfig, *, seq_length: int) -> int:
    """Counts all parameters; a tied head counts once. `seq_length` matters for learned positions only."""
    return round(local_parameters(config, num_layers=config.num_layers, seq_length=seq_length))


def local_parameters(
    config: ModelConfig, *, num_layers: int, seq_length: int, first: bool = True, last: bool = True, tp_size: int = 1
) -> float:
    """Counts what one of `tp_size` tensor ranks holds of `num_layers` layers.

    The embedding comes with them if `first`, the final norm and the head if `last`.
    """
    outside, block = _held_parts(config, seq_length=seq_length, first=first, last=last, tp_size=tp_size)
    return outside + num_layers * block


def parameter_shapes(config: ModelConfig, *, seq_length: int) -> dict[str, tuple[int, ...]]:
    """Returns the global names and full shapes of all parameters, in the model's order. Nothing is allocated."""
    transformer = without_values(config, seq_length=seq_length)
    return {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}


def non_embedding_parameters(config: ModelConfig) -> int:
    """Returns the elements of the blocks' matrices: the N of scaling laws without embeddings (arXiv 2503.04715)."""
    return config.num_layers * matrix_parameters_per_layer(config)


def flops_per_token(config: ModelConfig, seq_length: int, *, zeroed_weights: float = 0) -> float:
    """Returns the FLOPs of one token's forward and backward pass in rows of `seq_length`, head included.

    `zeroed_weights` of the blocks' matrices cost none: sparse hardware skips them, dense hardware multiplies by zero.
    """
    products = 2 * (non_embedding_parameters(config) - zeroed_weights + config.vocabulary * config.hidden_size)
    return 3 * (products + config.num_layers * attention_flops_per_layer(config, seq_length))


def attention_flops_per_layer(config: ModelConfig, seq_length: int) -> float:
    """Returns the FLOPs of one token's forward pass through one layer's attention, without its matrices."""
    return 2 * seq_length * config.hidden_size  # q·k and weights·v, each T/2 keys on average


@lru_cache(maxsize=256)
def _held_parts(config: ModelConfig, *, seq_length: int, first: bool, last: bool, tp_size: int) -> tuple[float, float]:
    """Counts what a tensor rank holds outside of the blocks, and of one block. Building modules takes milliseconds."""
    model = without_values(config, seq_length=seq_length, layer_range=range(1), first=first, last=last)
    block = sum(_held(block, tp_size) for block in model.layers.values())
    return _held(model, tp_size) - block, block


def _held(module: nn.Module, tp_size: int) -> float:
    return sum(
        parameter.numel() / (1 if spec_of(parameter, name).shard_dim is None else tp_size)
        for name, parameter in module.named_parameters()
    )
