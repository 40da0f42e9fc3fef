"""The lr, the batch and the weight decay before the first run: Step Law, and transfer over width.

Step Law (arXiv 2503.04715): lr = 1.797 N^-0.7129 D^0.3075 and batch = 0.581 D^0.5709 tokens, for N non-embedding
parameters (a layer has 4 h^2 + 3 h f of them) and D training tokens; AdamW, the lr falling to 1e-5. The coefficients
are the means of the authors' bootstrap; rounded to 1.79, 0.713, 0.307, as often quoted, they give an lr 2% lower.

Width (arXiv 2510.15262, from its abstract): with width-wise lr of matrices ~ 1/width, their weight decay must grow as
sqrt(width), so that the top singular value, ~ sqrt(lr / weight_decay) width^0.75, is the same at every width; vectors
(norm gains, biases) keep their lr and have no decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from settings import UserError

PARAMETERS_FITTED = (0.21e9, 1.07e9)  # of the runs Step Law was fitted on
TOKENS_FITTED = (4e9, 100e9)
LR_BY_PARAMETERS, LR_BY_TOKENS, BATCH_BY_TOKENS = -0.7129, 0.3075, 0.5709  # the powers of Step Law


@dataclass(frozen=True)
class StepLaw:
    """The advice of Step Law, with warnings where it is an extrapolation."""

    lr: float
    batch_tokens: float
    warnings: tuple[str, ...]

    def rows(self, seq_length: int) -> int:
        """Returns the global batch in rows of seq_length tokens, at least 1."""
        return max(1, round(self.batch_tokens / seq_length))


def step_law(*, parameters: float, tokens: float) -> StepLaw:
    """Returns the peak lr and the batch for N non-embedding parameters and D tokens."""
    _check_positive(parameters=parameters, tokens=tokens)
    warnings = []
    for name, value, (low, high) in (
        ("non-embedding parameters", parameters, PARAMETERS_FITTED),
        ("tokens", tokens, TOKENS_FITTED),
    ):
        if not low <= value <= high:
            warnings.append(
                f"{value:.3g} {name} is outside the {low:.3g} to {high:.3g} of Step Law's own runs: an extrapolation"
            )
    lr = 1.797 * parameters**LR_BY_PARAMETERS * tokens**LR_BY_TOKENS
    return StepLaw(lr, 0.581 * tokens**BATCH_BY_TOKENS, tuple(warnings))


def non_embedding_parameters(*, layers: int, hidden_size: int, ffn_size: int) -> int:
    """Returns N as Step Law counts it: full attention (4 h^2) and a gated MLP (3 h f) a layer; norms left out."""
    return layers * (4 * hidden_size**2 + 3 * hidden_size * ffn_size)


@dataclass(frozen=True)
class WidthTransfer:
    """The hyperparameters at another width."""

    matrix_lr: float
    matrix_weight_decay: float
    vector_lr: float
    vector_weight_decay: float
    singular_value_ratio: float  # top singular value of a matrix over that at the tuned width: 1 by construction


def transfer_width(*, lr: float, weight_decay: float, tuned_width: int, width: int) -> WidthTransfer:
    """Returns the hyperparameters for `width`, from those tuned at `tuned_width`."""
    _check_positive(lr=lr, weight_decay=weight_decay, tuned_width=tuned_width, width=width)
    ratio = width / tuned_width
    matrix_lr, matrix_decay = lr / ratio, weight_decay * math.sqrt(ratio)
    before = singular_value_scale(lr=lr, weight_decay=weight_decay, width=tuned_width)
    after = singular_value_scale(lr=matrix_lr, weight_decay=matrix_decay, width=width)
    return WidthTransfer(matrix_lr, matrix_decay, lr, 0.0, after / before)


def singular_value_scale(*, lr: float, weight_decay: float, width: int) -> float:
    """Returns sqrt(lr / weight_decay) width^0.75: the top singular value of a matrix in the long run, up to a constant.

    It is a diagnostic: where two runs of other widths differ in it, their matrices are not width-matched.
    """
    _check_positive(lr=lr, weight_decay=weight_decay, width=width)
    scale: float = math.sqrt(lr / weight_decay) * float(width) ** 0.75
    return scale


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} = {value} must be above 0 and finite")
