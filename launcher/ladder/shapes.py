"""The model of a size: depth, width and heads that keep the proportions of a given model."""

from __future__ import annotations

import math
from collections.abc import Iterator

from model.config import ModelConfig
from model.size import non_embedding_parameters, parameters
from settings import UserError

_FFN_MULTIPLE = 8
_MOST_HEADS = 4096
_LEAST_HEAD = 4
_SHALLOW = 4  # layers: every depth up to this is tried
_TOLERANCE = 0.2  # of the size
_CLOSE = 0.04  # of the size: a model this close is chosen by its proportions
_WORTH_OF_SIZE = 40.0  # of an error in size beyond that, against the same error in width over depth
_WORTH_OF_HEADS = 0.5  # the same of heads that are smaller than those of the given model


def model_of_size(base: ModelConfig, size: float, *, seq_length: int, tensor: int = 1) -> ModelConfig:
    """Returns a model of about `size` parameters (all, with embedding and head), shaped like `base`.

    Width over depth, MLP over width, the size of a head and the heads that share a key are those of `base`, as nearly
    as whole numbers allow; heads become smaller where the model would have less than one. `base`: with its vocabulary.
    `tensor`: ranks that share the heads and the MLP. Raises UserError if no such model is within 20% of the size.
    """
    if abs(parameters(base, seq_length=seq_length) / size - 1) < 0.01:
        return base
    best = min(_candidates(base, size, tensor), key=lambda model: _misfit(base, model, size), default=None)
    if best is None or abs(parameters(best, seq_length=seq_length) / size - 1) > _TOLERANCE:
        smallest = min(_candidates(base, 0.0, tensor), key=lambda model: _size(model))
        raise UserError(
            f"no model of this config's proportions has about {size:.3g} parameters; with a vocabulary of "
            f"{base.vocabulary} the smallest has {parameters(smallest, seq_length=seq_length):,}"
        )
    return best


def _candidates(base: ModelConfig, size: float, tensor: int) -> Iterator[ModelConfig]:
    """Yields models of several depths and widths around a size."""
    group = base.num_heads // base.kv_heads
    ffn_multiple = _FFN_MULTIPLE * tensor
    scale = (size / _size(base)) ** (1 / 3)
    depths = {
        round(base.num_layers * scale * factor) for factor in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.6, 2.5)
    }
    for layers in sorted({*range(1, _SHALLOW + 1), *depths} - {0}):
        for head_size in _head_sizes(base.head_size):
            for heads in range(group * tensor, _MOST_HEADS, group * tensor):
                hidden = heads * head_size
                ffn = base.ffn_size * hidden / base.hidden_size
                model = base.model_copy(
                    update={
                        "num_layers": layers,
                        "hidden_size": hidden,
                        "num_heads": heads,
                        "num_kv_heads": None if base.num_kv_heads is None else heads // group,
                        "ffn_size": max(1, round(ffn / ffn_multiple)) * ffn_multiple,
                    }
                )
                yield model
                if _size(model) > size:
                    break


def _head_sizes(size: int) -> Iterator[int]:
    """Yields the size of a head, and smaller ones that are even."""
    for eighths in (8, 6, 4, 3, 2, 1):
        if size * eighths % 16 == 0 and (size * eighths // 8 >= _LEAST_HEAD or eighths == 8):
            yield size * eighths // 8


def _misfit(base: ModelConfig, model: ModelConfig, size: float) -> float:
    aspect = (model.hidden_size / model.num_layers) / (base.hidden_size / base.num_layers)
    heads = base.head_size / model.head_size
    return (
        max(0.0, abs(math.log(_size(model) / size)) - _CLOSE) * _WORTH_OF_SIZE
        + abs(math.log(aspect))
        + _WORTH_OF_HEADS * abs(math.log(heads))
    )


def _size(model: ModelConfig) -> int:
    """Returns about how many parameters a model has: its matrices."""
    tables = 1 if model.tied_embeddings else 2
    return non_embedding_parameters(model) + tables * model.vocabulary * model.hidden_size
