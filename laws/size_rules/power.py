"""Powers of parameters and tokens, relative to a tuned run.

    lr = lr_0 (N / N_0)^a (D / D_0)^b          Step Law (arXiv 2503.04715): a = -0.7129, b = 0.3075
    batch = batch_0 (D / D_0)^c                the same: c = 0.5709
    weight decay = batch / (lr D tau)          tau = tau_0 (D / N / (D_0 / N_0))^d, d = -0.527 (arXiv 2505.13738)

tau is AdamW's memory as a share of the run: 1 / (lr weight_decay) steps of batch / D each. The published powers are
from models of 0.1 to 3 billion parameters; sweeps at two sizes give those of smaller ones (`refitted`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field

from laws.scaling.hyperparameters import BATCH_BY_TOKENS, LR_BY_PARAMETERS, LR_BY_TOKENS
from laws.size_rules.base import SIZE_RULES, SizeRule, TunedRun
from settings import UserError

_LEAST_RATIO = 1.5  # of two sizes or lengths: closer ones tell no power


@SIZE_RULES.register
class PowerConfig(SizeRule):
    """Powers of parameters and tokens, relative to a tuned run."""

    name: Literal["power"] = "power"
    lr_by_parameters: float = Field(LR_BY_PARAMETERS, description="a: the power of the parameters in the lr")
    lr_by_tokens: float = Field(LR_BY_TOKENS, description="b: the power of the tokens in the lr")
    batch_by_tokens: float = Field(BATCH_BY_TOKENS, description="c: the power of the tokens in the batch")
    memory_by_tokens_per_parameter: float = Field(-0.527, description="d: that of AdamW's memory, as a share of a run")

    def run(self, tuned: TunedRun, *, parameters: float, tokens: float) -> TunedRun:
        """Returns the run of another size and length. Raises UserError unless both are above 0 and finite."""
        by_size, by_length = parameters / tuned.parameters, tokens / tuned.tokens
        if not (0 < by_size < math.inf and 0 < by_length < math.inf):
            raise UserError(f"parameters = {parameters:g} and tokens = {tokens:g} must be above 0 and finite")
        lr = tuned.lr * by_size**self.lr_by_parameters * by_length**self.lr_by_tokens
        batch = tuned.batch_tokens * by_length**self.batch_by_tokens
        memory = (by_length / by_size) ** self.memory_by_tokens_per_parameter
        decay = tuned.weight_decay * (batch / tuned.batch_tokens) / (lr / tuned.lr * by_length * memory)
        return TunedRun(parameters, tokens, lr, batch, decay)

    def refitted(self, tuned: Sequence[TunedRun], *, of: Collection[str] = ("lr", "batch_tokens")) -> Self:
        """Returns the rule with a and c by least squares through the tuned runs, each if it was tuned.

        Parameters and tokens grow together along a ladder, so b stays as it is; runs of one size tell b instead of a,
        and runs of one length tell no c. Raises UserError for fewer than two runs, and for runs of one size and length.
        """
        log_n, log_d, log_lr, log_batch = (
            np.log([getattr(run, name) for run in tuned]) for name in ("parameters", "tokens", "lr", "batch_tokens")
        )
        several_sizes, several_lengths = (
            values.size > 1 and float(np.ptp(values)) >= math.log(_LEAST_RATIO) for values in (log_n, log_d)
        )
        if not (several_sizes or several_lengths):
            raise UserError(
                f"the {self.name} rule is refitted from tuned runs of at least two sizes or lengths, one "
                f"{_LEAST_RATIO:g} times the other; there {'is one run' if len(tuned) == 1 else 'are no such runs'}: "
                "add a sweep at another rung"
            )
        update: dict[str, float] = {}
        if several_sizes and "lr" in of:
            update["lr_by_parameters"] = _power(log_n, log_lr - self.lr_by_tokens * log_d)
        elif "lr" in of:
            update["lr_by_tokens"] = _power(log_d, log_lr)
        if several_lengths and "batch_tokens" in of:
            update["batch_by_tokens"] = _power(log_d, log_batch)
        return self.model_copy(update=update)


def _power(log_x: np.ndarray, log_y: np.ndarray) -> float:
    return float(np.polyfit(log_x, log_y, 1)[0])
