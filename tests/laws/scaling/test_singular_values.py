"""The width diagnostic against numpy's SVD, and on matrices that AdamW has driven to their equilibrium."""

import numpy as np
import pytest

from laws.scaling.hyperparameters import transfer_width
from laws.scaling.singular_values import match_widths, mean_ratio, top_singular_value
from settings import UserError


@pytest.mark.parametrize("shape", [(7, 7), (40, 9), (9, 40), (1, 5)])
def test_the_top_singular_value_is_that_of_the_svd(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    assert top_singular_value(matrix) == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-12)


def equilibrium(width: int, lr: float, weight_decay: float, rng: np.random.Generator) -> np.ndarray:
    """A matrix under sign updates (Adam's on noise) and decoupled decay, until the two balance."""
    matrix = np.zeros((width, width))
    for _ in range(round(4 / (lr * weight_decay))):
        matrix += -lr * weight_decay * matrix + lr * np.sign(rng.normal(size=matrix.shape))
    return matrix


def test_transferred_hyperparameters_are_matched_and_kept_ones_are_not() -> None:
    """Noise alone gives sqrt(lr / decay) width^0.5, so lr ~ 1/width with decay ~ sqrt(width) leaves width^-0.25."""
    rng = np.random.default_rng(1)
    lr, decay, narrow, wide = 0.1, 0.2, 32, 128
    tuned = {"w": equilibrium(narrow, lr, decay, rng), "gain": np.ones(narrow)}
    moved = transfer_width(lr=lr, weight_decay=decay, tuned_width=narrow, width=wide)
    carried = {"w": equilibrium(wide, moved.matrix_lr, moved.matrix_weight_decay, rng), "gain": np.ones(wide)}
    (match,) = match_widths(tuned, carried)
    assert match.name == "w"
    assert match.ratio == pytest.approx((wide / narrow) ** -0.25, rel=0.1)
    kept = match_widths(tuned, {"w": equilibrium(wide, lr, decay, rng)})
    assert mean_ratio(kept) == pytest.approx((wide / narrow) ** 0.5, rel=0.1)


def test_what_cannot_be_compared_is_refused() -> None:
    square = np.eye(3)
    with pytest.raises(UserError, match="no matrix of the same name"):
        match_widths({"a": square}, {"b": square})
    with pytest.raises(UserError, match="w is 0 in one of the models"):
        match_widths({"w": square}, {"w": np.zeros((3, 3))})
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        top_singular_value(np.ones(3))
