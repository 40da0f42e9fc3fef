"""Folds constant scales into weights, for a plain pre-norm model that computes the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.parameter import ParamSpec


def fold_scales(weights: Mapping[str, Tensor], specs: Mapping[str, ParamSpec]) -> dict[str, Tensor]:
    """Multiplies each weight by the constant that its declaration says the forward pass multiplies it by.

    From a model with `norm_scaling`, whose block norms have 1/sqrt(l) (arXiv 2502.05795), these are the weights of the
    same model without it, which computes the same to the bit in fp32. They are for inference and export. Training on is
    not the same: Adam's step on a gain does not shrink with the gain.
    """
    return {name: (weight.float() * specs[name].scale).to(weight.dtype) for name, weight in weights.items()}
