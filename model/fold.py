"""LayerNorm Scaling folded away: weights of a plain pre-norm model that computes the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from model.config import ModelConfig

_BLOCK_NORM = re.compile(r"^layers\.(\d+)\.(attention_norm|mlp_norm)\.")


def fold_norm_scaling(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """From the weights of `config`, by global name, those of the same config with norm_scaling none.

    The norms of block l take their factor 1/sqrt(l) into gain and bias (arXiv 2502.05795): equal to the bit in fp32.
    For inference and export. Training on is not the same: Adam's step on a gain does not shrink with the gain.
    """
    folded = dict(weights)
    for name, weight in weights.items():
        if match := _BLOCK_NORM.match(name):
            folded[name] = (weight.float() * config.norm_scale(int(match[1]))).to(weight.dtype)
    return folded
